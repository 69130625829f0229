"""A function of tensors as the calls that it makes: the trace of a few operators, at a fraction of what make_fx costs.

Nothing is computed: the operands are fake tensors. A recording holds none, so it serves every program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx.node import map_aggregate

from alpha_func.calls import Args, Function, Kwargs
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.torch_private import FakeTensor, FakeTensorMode, OpOverload, TorchDispatchMode, is_composite

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Ref:
    """A value of a recording: output ``output`` of a call, or, of call −1, an input."""

    call: int
    output: int


class RecordedCall(NamedTuple):
    """A call, with ``Ref``s and constants as operands; ``several``: whether it gives a sequence."""

    target: Operator
    args: Args
    kwargs: Kwargs
    several: bool


class Recorded(NamedTuple):
    """A recording: its calls in order, and a tree of ``Ref``s."""

    calls: list[RecordedCall]
    outputs: Value


def recorded(function: Function, inputs: Sequence[Tensor], mode: FakeTensorMode) -> Recorded:
    """The calls of a function, without those that its outputs do not need.

    Args:
        function: of the inputs, to a tree of tensors; it may write in place to what it has made.
        inputs: fake tensors, no two of them the same.
        mode: theirs.
    """
    recorder = _Recorder(inputs)
    with mode, recorder:
        outputs = functionalize(function)(*inputs)
    return recorder.of(outputs)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operator that runs, as a call."""

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[RecordedCall] = []
        self._refs = {id(tensor): Ref(-1, i) for i, tensor in enumerate(inputs)}
        self._alive: list[Value] = [inputs]  # so that no two tensors have one id

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Value:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question about a tensor
            return func(*args, **kwargs)
        if is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if func is aten.lift_fresh.default:  # a constant, which is to stay one
            func = aten.lift_fresh_copy.default
        operands = map_aggregate((args, kwargs), self._named)
        several = isinstance(result, (tuple, list))
        for i, tensor in enumerate(result if several else [result]):
            self._refs[id(tensor)] = Ref(len(self._calls), i)
        self._alive.append(result)
        self._calls.append(RecordedCall(func, *operands, several))
        return result

    def of(self, outputs: Value) -> Recorded:
        """What the outputs need."""
        ends = map_aggregate(outputs, self._named)
        needed = _read_by(ends)
        for i in reversed(range(len(self._calls))):
            if i in needed:
                needed |= _read_by((self._calls[i].args, self._calls[i].kwargs))
        place = {old: new for new, old in enumerate([-1, *sorted(needed - {-1})], -1)}

        def moved(x: Value) -> Value:
            return Ref(place[x.call], x.output) if isinstance(x, Ref) else x

        calls = [self._calls[i] for i in sorted(needed - {-1})]
        return Recorded(
            [RecordedCall(c.target, *map_aggregate((c.args, c.kwargs), moved), c.several) for c in calls],
            map_aggregate(ends, moved),
        )

    def _named(self, x: Value) -> Value:
        if not isinstance(x, Tensor):
            return x
        found = self._refs.get(id(x))
        if found is None and isinstance(x, FakeTensor):
            raise NotImplementedError("a derivative reads a tensor that is not one of its operands")
        return x if found is None else found


def _read_by(operands: Value) -> set[int]:
    found = set()

    def look(x: Value) -> Value:
        if isinstance(x, Ref):
            found.add(x.call)
        return x

    map_aggregate(operands, look)
    return found
