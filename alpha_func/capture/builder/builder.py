"""A program under construction: every call goes through the laws before it becomes a node.

A ``Builder`` writes an fx.Graph of ATen calls. A call that a law rewrites never becomes a node, and a call that is
there already is not written twice (hash-consing, Ershov 1958), so a program comes out simplified in one pass, in order.
Each node carries a fake tensor (shape, dtype, strides) in ``meta["val"]``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import getitem

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.recorded import Recorded, Ref
from alpha_func.capture.builder.results import hashable, result_of
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.time_limit import require_time
from alpha_func.torch_private import (
    FakeTensor,
    FakeTensorMode,
    LazyGraphModule,
    OpOverload,
    writes_in_place,
)

Law = Callable[["Builder", Args, Kwargs], Value]
Laws = Mapping[Operator, Sequence[Law]]

aten = torch.ops.aten

_IMPURE = {torch.Tag.nondeterministic_seeded}


class Builder:
    """Writes a program, a call at a time.

    Args:
        laws: for each operator, its laws: ``law(builder, args, kwargs)`` returns what the call equals, or None.
        mode: the fake mode of the operands.
        apart: operators each call of which is a node of its own.
    """

    def __init__(self, laws: Laws, mode: FakeTensorMode, apart: Collection[object] = ()):
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self.mode = mode
        self._laws, self._apart = laws, apart
        self.used_once: set[Value] = set()  # values that the program which is rewritten uses once
        self.traces: dict[object, fx.GraphModule] = {}
        self._known: dict[Operator, Value] = {}

    def placeholder(self, name: str, val: object) -> fx.Node:
        """A further input of the program."""
        node = self.graph.placeholder(name)
        node.meta["val"] = val
        return node

    def inputs_of(self, program: fx.GraphModule) -> list[fx.Node]:
        """The inputs of a program, as further ones of this."""
        return [
            self.placeholder(str(node.target), self.as_fake(node.meta["val"]))
            for node in program.graph.find_nodes(op="placeholder")
        ]

    def count_uses(self, node: fx.Node, args: Args, kwargs: Kwargs, value: Value) -> None:
        """Note whether a call of the program that is rewritten is used once."""
        if len(node.users) == 1 and isinstance(value, fx.Node):
            self.used_once.add(value)

    def constant(self, name: str, tensor: Tensor) -> fx.Node:
        """A tensor that the program holds."""
        key = ("constant", id(tensor))
        if key not in self._known:
            self.constants[name] = tensor
            node = self.graph.get_attr(name)
            node.meta["val"] = self.as_fake(tensor)
            self._known[key] = node
        return self._known[key]

    def as_fake(self, val: object) -> Value:
        """A tensor as a fake one of this program; anything else unchanged."""
        return self.mode.from_tensor(val) if isinstance(val, Tensor) and not isinstance(val, FakeTensor) else val

    def call(self, target: Operator, *args: object, **kwargs: object) -> Value:
        """What the call equals: an older node, a number, or a new node."""
        for law in self._laws.get(target, ()):
            found = law(self, args, kwargs)
            if found is not None:
                return found
        return self.write(target, *args, **kwargs)

    def write(self, target: Operator, *args: Value, **kwargs: Value) -> Value:
        """The node of a call, without laws."""
        if isinstance(target, OpOverload) and writes_in_place(target):
            raise NotImplementedError(f"{target} writes in place: a program of pure operators was expected")
        key = (
            None
            if is_impure(target) or target in self._apart
            else hashable((target, args, tuple(sorted(kwargs.items()))))
        )
        if key is not None and key in self._known:
            return self._known[key]
        require_time()
        val = self.fake_result(target, args, kwargs)
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = val
        if key is not None:
            self._known[key] = node
        return node

    def inline(self, recording: Recorded, inputs: Sequence[Value]) -> Value:
        """The outputs of a recording, its calls written here."""
        values: list[Value] = []

        def value(x: Value) -> Value:
            if isinstance(x, Tensor):
                return self.constant(f"constant_{len(self.constants)}", x)
            if not isinstance(x, Ref):
                return x
            if x.call < 0:
                return inputs[x.output]
            found = values[x.call]
            if not recording.calls[x.call].several:
                return found
            return self.call(getitem, found, x.output) if isinstance(found, fx.Node) else found[x.output]

        for call in recording.calls:
            args, kwargs = map_aggregate((call.args, call.kwargs), value)
            values.append(self.call(call.target, *args, **kwargs))
        return map_aggregate(recording.outputs, value)

    def fake_result(self, target: Operator, args: Args, kwargs: Kwargs) -> Value:
        """Shape, dtype, strides and device of what a call returns."""
        return result_of(self.mode, target, args, kwargs)


def plus(b: Builder, *terms: Value) -> Value:
    """The sum of the terms; None is zero."""
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else b.call(aten.add.Tensor, total, term)
    return total


def times(b: Builder, *factors: Value) -> Value:
    """The product of the factors; None is zero."""
    if any(factor is None for factor in factors):
        return None
    product = factors[0]
    for factor in factors[1:]:
        product = b.call(aten.mul.Tensor, product, factor)
    return product


Visit = Callable[[fx.Node, Args, Kwargs, Value], None]


def replay(module: fx.GraphModule, inputs: Sequence[Value], builder: Builder, visit: Visit | None = None) -> Value:
    """Write the calls of a program into a builder, its placeholders bound to ``inputs``; the values of its outputs.

    ``visit`` is told of each call: its node in the program, and in the builder its operands and its value.
    """
    env: dict[fx.Node, Value] = {}
    given = iter(inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            env[node] = builder.constant(str(node.target), getattr(module, str(node.target)))
        elif node.op == "output":
            return fx.map_arg(node.args[0], env.__getitem__)
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
            env[node] = builder.call(node.target, *args, **kwargs)
            if visit is not None:
                visit(node, args, kwargs, env[node])
    raise ValueError("the program has no output")


def is_impure(target: Operator) -> bool:
    """Whether two calls with the same operands may differ: they draw random numbers."""
    return isinstance(target, OpOverload) and not _IMPURE.isdisjoint(target.tags)


def fake_mode(module: fx.GraphModule) -> FakeTensorMode:
    """The fake mode in which a program was traced."""
    for node in module.graph.nodes:
        if isinstance(node.meta.get("val"), FakeTensor):
            return node.meta["val"].fake_mode
    return FakeTensorMode()


def finished(builder: Builder, outputs: Value) -> fx.GraphModule:
    """The program that a builder wrote, without what its outputs do not need.

    Random draws stay even where nothing needs them: the draws that come after depend on them.
    """
    builder.graph.output(outputs)
    builder.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_impure(node.target))
    return LazyGraphModule(builder.constants, builder.graph)  # code is written where it runs
