"""One look at what a call of a loss reads and writes, operator by operator, before each of them runs.

A loss is a function of its parameters only if it reads them through its argument, and writes to nothing that it has not
made. Both are seen here: the look is given the loss on clones of the parameters, so that whatever still lies in the
memory of the originals was reached another way.
"""

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.errors import ImpureLossError, StrategyError
from alpha_func.losses.memory import NOWHERE, Memory, storage
from alpha_func.torch_private import (
    OpOverload,
    TorchDispatchMode,
    current_graph_task_id,
    dispatch_modes,
    is_forward_over_forward,
    is_written,
    uncompiled,
    writes_in_place,
)
from alpha_func.whereabouts import here

_FEW = 2**16
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
_current: ContextVar["Look | None"] = ContextVar("look", default=None)


class Look(TorchDispatchMode):
    """Refuses an operator that reads a parameter other than as an argument, or writes to what the loss has not made."""

    def __init__(self, params: object, arguments: object):
        super().__init__()  # type: ignore[no-untyped-call]
        given = [("a parameter", tensor) for tensor in _tensors(params)]
        self._given = Memory([*given, *(("an argument", tensor) for tensor in _tensors(arguments))])
        self._parameters: list[Memory] = []
        self._made = {NOWHERE}
        self._statistics: dict[Any, Any] = {}  # by their memory, which is not another's as long as they are here
        self._outside: set[int] = set()  # the memory of what has been made outside every autograd.Function
        self.hidden: str | None = None  # what an autograd.Function reads and autograd does not know of
        self.seen_by: list[Callable[[], None]] = []  # called where the look ends well

    def protect(self, named: Iterable[tuple[str, Tensor]], own: Iterable[Tensor] = ()) -> None:
        """Parameters that the loss shall read through its argument alone; its own tensors, which it may write to."""
        self._parameters.append(Memory(named))
        self._made.update(map(storage, own))

    def __torch_dispatch__(self, func: OpOverload, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        """The operator, if it may run."""
        kwargs = kwargs or {}
        taken = _tensors((args, kwargs))
        for tensor in taken:
            name = next(filter(None, (memory.owner(tensor) for memory in self._parameters)), None)
            if name is not None and self._given.owner(tensor) is None:
                raise ImpureLossError(
                    ANOTHER_WAY.format(name=name, what=f"{func}{here()} takes", shape=tuple(tensor.shape))
                )
        if writes_in_place(func):
            for tensor in _tensors(is_written(func, args, kwargs)):
                if tensor.numel() and storage(tensor) not in self._made:
                    self._refuse_write(func, tensor)
        self._refuse_statistics(func, taken)
        function = _outermost_function()
        if function is not None and self.hidden is None:
            self.hidden = self._hidden_from(function, taken)
        before = [(t, t.clone()) for t in taken if _is_small(t) and storage(t) not in self._made]
        out = func(*args, **kwargs)
        # The schema of native_batch_norm does not say that it writes its statistics.
        changed = [(tensor, value) for tensor, value in before if bool(((tensor != value) & (value == value)).any())]
        for tensor, value in changed:
            tensor.copy_(value)
        if changed:
            self._refuse_write(func, changed[0][0])
        if func.overloadpacket.__name__ in _NORMALISATIONS:
            self._statistics.update({storage(t): (func, t) for t in out[1:] if storage(t) != NOWHERE})
        foreign = set(map(storage, taken)) - self._made  # a view of what the loss has not made is not made by it either
        made = set(map(storage, _tensors(out))) - foreign
        self._made |= made
        self._outside = self._outside | made if function is None else self._outside - made
        return out

    def _hidden_from(self, function: FrameType, taken: list[Tensor]) -> str | None:
        """What the forward of an autograd.Function takes that has a derivative and is none of its arguments."""
        given = set(map(storage, _tensors((function.f_locals["args"], function.f_locals["kwargs"]))))
        for tensor in taken:
            at, parameter = storage(tensor), self._given.owner(tensor) == "a parameter"
            if (parameter or (tensor.requires_grad and at in self._outside)) and at not in given:
                what = "a parameter" if parameter else "a tensor"
                return f"{function.f_locals['cls'].__name__} reads {what} of shape {tuple(tensor.shape)}{here()}"
        return None

    def _refuse_statistics(self, func: object, taken: list[Tensor]) -> None:
        # The backward pass itself may use them, and the forward pass of native_group_norm saves them detached.
        if not self._statistics or current_graph_task_id() != -1 or func is torch.ops.aten.detach.default:
            return
        of = next((self._statistics[s] for s in map(storage, taken) if s in self._statistics), None)
        if of is not None:
            raise StrategyError(_STATISTICS.format(of=of[0], func=func, here=here()))

    def _refuse_write(self, func: object, tensor: Tensor) -> None:
        what = self._given.owner(tensor) or "a tensor that it closes over"
        raise ImpureLossError(_WRITES.format(what=what, shape=tuple(tensor.shape), of=func, here=here()))


@contextmanager
def looking(params: object, arguments: object) -> Iterator[Look]:
    """Look at the call of a loss that runs within, and at whether it draws from generators other than torch's.

    Args:
        params: what the loss is called with: clones, so that no memory of the originals is theirs.
        arguments: its further arguments.
    """
    before = _other_draws()
    token = _current.set(look := Look(params, arguments))
    try:
        with uncompiled(), look:
            yield look
    finally:
        _current.reset(token)
        drawn = _put_back_draws(before)
    if drawn:
        raise ImpureLossError(_DRAWS.format(" and ".join(drawn)))
    for tell in look.seen_by:
        tell()


def hides(loss: Callable[[list[Tensor]], Tensor], params: list[Tensor]) -> bool:
    """Whether an autograd.Function in the loss reads what autograd does not know of."""
    own = [leaf.detach().clone().requires_grad_() for leaf in params]
    with torch.enable_grad(), looking(own, ()) as look:
        loss(own)
    return look.hidden is not None


def look_in_progress() -> Look | None:
    """The look that this call of a loss is under."""
    return _current.get()


def can_look() -> bool:
    """Whether nobody else, a tracer for one, watches this call, and PyTorch can be watched: under forward mode over
    forward mode ``mse_loss`` ends the process. A look has been taken before that."""
    return not dispatch_modes() and not is_forward_over_forward()


def _outermost_function() -> FrameType | None:
    """The call of an autograd.Function that an operator runs in."""
    frame, found = sys._getframe(2), None
    while frame is not None:
        found = frame if frame.f_code is _APPLY else found
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _is_small(tensor: Tensor) -> bool:
    """Whether its values can be compared, and are few, as those are that an operator writes and does not say so."""
    plain = type(tensor) in tree.PLAIN and tensor.layout is torch.strided and not tensor.is_meta
    lazy = tensor.is_conj() or tensor.is_neg()  # a bit of a view, which a comparison made here does not read
    return plain and not lazy and tensor.numel() < _FEW


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree.leaves(values) if isinstance(leaf, Tensor)]


def _other_draws() -> list[tuple[str, object, Callable[[], None]]]:
    """The state of the generators that a seed of torch does not set, and how to put it back."""
    state = random.getstate()
    found: list[tuple[str, Any, Callable[[], None]]] = [("random", state, lambda: random.setstate(state))]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        drawn = numpy.random.get_state()
        found.append(("numpy.random", (drawn[1].tobytes(), *drawn[2:]), lambda: numpy.random.set_state(drawn)))
    return found


def _put_back_draws(before: list[tuple[str, object, Callable[[], None]]]) -> list[str]:
    """The names of those that have moved, now where they were."""
    moved = []
    for (name, state, put_back), (_, now, _) in zip(before, _other_draws(), strict=True):
        if state != now:
            put_back()
            moved.append(name)
    return moved


_NORMALISATIONS = ("native_layer_norm", "native_group_norm", "native_batch_norm")
_STATISTICS = (
    "the loss uses the statistics that {of} returns ({func}{here}): PyTorch treats them as constants, and every "
    "derivative through them would be zero; use torch.var_mean, which can be differentiated"
)
ANOTHER_WAY = (
    "the loss reads the memory of parameter {name} other than through its argument: {what} a tensor of shape "
    "{shape}, a view, a list or a closure that holds the weight; every derivative through it would be zero; "
    "read it as the module's own attribute in the forward (self.layer.weight, model.parameters()), or hold a clone if "
    "it is constant"
)
_WRITES = (
    "the loss changes {what}, of shape {shape}, in place ({of}{here}): it is not a pure function; change a clone of it"
)
_DRAWS = (
    "the loss draws from {}, which the seed of functional_loss does not set, so its value changes from call to call: "
    "draw with torch (torch.rand), or pass the random numbers as an argument"
)
