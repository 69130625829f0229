"""What the forward of a training step began with: random generators, mode, buffers and attributes.

A forward may change what it reads: statistics, queues, counters, the generators. The step's loss is the function that
it was when the forward began. That is watched from outside, by a global hook that is there only until the step has been
seen: the module itself has no hook, and is copied, saved, scripted and compiled as without an observer.
"""

import copy
import logging
import random
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from alpha_func.calls import Args
from alpha_func.losses.draws import RngState, draws_replayed, other_generators_kept, rng_state
from alpha_func.losses.restoring import Attributes
from alpha_func.torch_private import GLOBAL_HOOKS, any_autocast_enabled, current_graph_task_id

logger = logging.getLogger("alpha_func")
_, _PRE_HOOKS = GLOBAL_HOOKS
KEPT = 8  # beginnings; more calls of the module before a ``batch`` than that are of no interest
_EXACT = (torch.float32, torch.float64)
_STRUCTURE = frozenset(nn.Module().__dict__) - {"training"}
_CONTAINERS = (list, dict, set, deque)
_NOTICE = r"Using `torch.compile\(module\)` when there are global hooks"  # it is this one hook, which fires once
_Kept = tuple[Any, Any, Any]  # a value, what stands for it if it changes, and what tells that it has


class Beginning(NamedTuple):
    """What a forward began with.

    Attributes:
        draws: where the generators stood.
        state: of every part of the module its attributes and buffers.
        tensors: the ids of the tensors that the module was called with, and their versions.
        weights: the versions of the parameters.
    """

    draws: RngState
    state: list[tuple[Attributes, dict[str, _Kept]]]
    tensors: dict[int, int]
    weights: list[int]

    def changed_parts(self) -> list[str]:
        """The attributes and buffers that are no longer what they were."""
        return [name for now, kept in self.state for name, value in kept.items() if _changed(now.get(name), value)]


_ARMED: "weakref.WeakSet[Watch]" = weakref.WeakSet()


def _hook_of(on_call: Any) -> Callable[[nn.Module, Args], None]:
    """The hook of a watch, one for all of its life."""

    def hook(module: nn.Module, args: Args) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        watch = on_call()
        if watch is not None:
            watch(module, args)
            return
        # Not when the watch is collected: that may be while Dynamo compiles, and has the hook in a guard.
        for key in [key for key, each in _PRE_HOOKS.items() if each is hook]:
            del _PRE_HOOKS[key]

    return hook


class Watch:
    """Watches the calls of a module, or of any part of it, between ``arm`` and ``disarm``.

    Attributes:
        begun: the beginnings of the calls so far, the first of any part and those of the module itself.
        calls: how many calls of the module itself there were.
        autocast: the dtype that a part of it was called under; None without autocast.
    """

    def __init__(
        self, module: nn.Module, *, others: Sequence[nn.Module] = (), on_call: Callable[[], None] = lambda: None
    ):
        self._module, self._others, self._tell = module, others, on_call
        self.begun: deque[Beginning] = deque(maxlen=KEPT)
        self.calls, self.autocast = 0, None
        self._key: int | None = None  # of the hook; Dynamo has it in a guard, and would compile anew for another one
        self._hook = _hook_of(weakref.WeakMethod(self._on_call))

    autocast: torch.dtype | None

    def arm(self) -> None:
        """Watch from now on."""
        if self not in _ARMED:
            self._parts = {id(part) for part in self._module.modules()}
            warnings.filterwarnings("ignore", message=_NOTICE)
            if self._key is None:
                self._key = register_module_forward_pre_hook(self._hook).id
            else:
                _PRE_HOOKS[self._key] = self._hook
            _ARMED.add(self)

    def disarm(self) -> None:
        """Watch no longer."""
        self._leave()
        self.begun.clear()
        self.calls, self.autocast = 0, None

    def _leave(self) -> None:
        if self in _ARMED and self._key is not None:
            _PRE_HOOKS.pop(self._key, None)
            _ARMED.discard(self)

    def begin(self, tensors: Any = ()) -> None:
        """A forward begins now."""
        self.begun.append(
            Beginning(
                rng_state(),
                [kept for module in (self._module, *self._others) for kept in state_of(module)],
                {id(value): value._version for value in tensors if isinstance(value, Tensor)},
                versions(self._module),
            )
        )

    def _on_call(self, module: nn.Module, args: Args) -> None:
        if id(module) not in self._parts or not torch.is_grad_enabled():
            return
        if current_graph_task_id() != -1:  # a checkpoint that computes again, within backward
            return
        if self.autocast is None and any_autocast_enabled():
            kind = next(iter(self._module.parameters())).device.type
            self.autocast = torch.get_autocast_dtype(kind)
        if module is self._module:
            self.calls += 1
        elif self.begun:
            return
        try:
            self._tell()
            self.begin(args)
        except Exception as error:  # a forward of the loop's is never ended; its batch then has no beginning
            logger.warning(
                "the state at the beginning of a forward could not be kept: %s: %s", type(error).__name__, error
            )
            self.disarm()


@contextmanager
def measuring() -> Iterator[None]:
    """Within, no watch takes a call of its module for the loop's; what is traced meanwhile sees no hook."""
    armed = list(_ARMED)
    for watch in armed:
        watch._leave()
    try:
        yield
    finally:
        for watch in armed:
            watch.arm()


def versions(module: nn.Module) -> list[int]:
    """How often each parameter has been written to."""
    return [param._version for param in module.parameters()]


def state_of(module: nn.Module) -> list[tuple[Attributes, dict[str, _Kept]]]:
    """Of every part its attributes and its buffers, with copies of what can be changed in place."""
    found = []
    for part in module.modules():
        own = vars(part)
        found.append((own, {name: _kept(value) for name, value in own.items() if name not in _STRUCTURE}))
        if own["_buffers"]:
            found.append((own["_buffers"], {name: _kept(value) for name, value in own["_buffers"].items()}))
    return found


def _kept(value: object) -> _Kept:
    if isinstance(value, Tensor):
        if value.grad_fn is not None:  # of a graph: it is replaced, not written to
            return value, value, value._version
        return value, value.detach().clone(), value._version
    if isinstance(value, _CONTAINERS) and type(value) in _CONTAINERS:
        return value, copy.copy(value), None
    if _is_generator(value):
        return value, copy.deepcopy(value), None
    return value, value, None


def _is_generator(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    kinds: tuple[type, ...] = (random.Random,)
    if numpy is not None:
        kinds += (numpy.random.Generator, numpy.random.RandomState)
    return isinstance(value, kinds)


def _changed(now: Any, kept: _Kept) -> bool:
    value, stand_in, version = kept
    if now is not value:
        return not (type(now) in (int, float, bool, str) and type(now) is type(value) and now == value)
    if isinstance(value, Tensor):
        return value._version != version
    if type(value) in _CONTAINERS:
        one, other = (list(v.items()) if isinstance(v, dict) else list(v) for v in (value, stand_in))
        return len(one) != len(other) or any(not _same(a, b) for a, b in zip(one, other, strict=True))
    return value is not stand_in


def _same(one: object, other: object) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other) == 2:
        return all(a is b for a, b in zip(one, other, strict=True))
    return one is other


@contextmanager
def as_it_began(
    beginning: Beginning | None,
    modules: Sequence[nn.Module],
    exact: Callable[[Tensor], Tensor],
    weights: Mapping[int, Tensor | None] = MappingProxyType({}),
) -> Iterator[None]:
    """Within, generators, modes, attributes and buffers are those of the beginning, and all tensors are exact.

    Args:
        beginning: None leaves all unchanged, but for ``exact``.
        modules: whose tensors are to be exact.
        exact: a tensor in float32 or better.
        weights: by their ids the parameters that the loss is a function of, and replaces while it is called; a tensor
            stands for one until the end, for what is computed again in a backward pass (checkpoints).
    """
    with ExitStack() as stack:
        stack.enter_context(other_generators_kept())  # a trace draws from them as they stand
        stack.enter_context(draws_replayed(None if beginning is None else beginning.draws))
        for now, changes in _changes(beginning):
            stack.enter_context(_replaced(now, changes))
        for module in modules:
            for part in module.modules():
                for values in (part._parameters, part._buffers, vars(part)):
                    changes = {name: exact(value) for name, value in values.items() if is_low(value, weights)}
                    changes |= {name: w for name, p in values.items() if (w := weights.get(id(p))) is not None}
                    if changes:
                        stack.enter_context(_replaced(values, changes))
        yield


def is_low(value: object, skip: Container[int]) -> TypeGuard[Tensor]:
    """Whether it is a tensor in less than float32."""
    if not isinstance(value, Tensor) or id(value) in skip or not value.is_floating_point():
        return False
    return value.dtype not in _EXACT


def _changes(beginning: Beginning | None) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    for now, kept in () if beginning is None else beginning.state:
        changes = {name: _fresh(value[1]) for name, value in kept.items() if _changed(now.get(name), value)}
        if changes:
            yield now, changes


def _fresh(value: object) -> object:
    """The stand-in of one evaluation, which may write to it."""
    if isinstance(value, Tensor):
        return value if value.grad_fn is not None else value.clone()
    if type(value) in _CONTAINERS:
        return copy.copy(value)
    return copy.deepcopy(value) if _is_generator(value) else value


@contextmanager
def _replaced(values: Attributes, changes: Attributes) -> Iterator[None]:
    before = values.copy()
    values.update(changes)
    try:
        yield
    finally:
        values.clear()
        values.update(before)
