"""When the optimizers of a loop begin and end a step: each of them once, nested calls of ``step`` counted as one.

Told by the optimizers' own hooks. A closure that makes the gradient within the step is seen at its first evaluation,
where the parameters are still those before the step.
"""

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from alpha_func.calls import Args, Function, Kwargs

F = TypeVar("F", bound=Function)


class Loop(Protocol):
    """What is told."""

    def step_begins(self) -> None:
        """The first of the optimizers is about to step."""

    def closure_evaluated(self, loss: object) -> None:
        """The gradient within the step has been made, for the first time."""

    def optimizer_stepped(self, optimizer: Optimizer) -> None:
        """One of the optimizers has stepped."""

    def step_ended(self, why_not: str | None) -> None:
        """All have, or the step came to nothing, and why."""


class Steps:
    """Tells a loop of the steps that its optimizers take together, until ``leave``."""

    def __init__(self, optimizers: Sequence[Optimizer], loop: Loop):
        self._count, self._loop = len(optimizers), loop
        self._running: dict[int, list[int]] = {}  # of an optimizer's step the id of its frame, and how many are within
        self._stepped: set[int] = set()
        self._skipped = False
        self._handles: list[Any] = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(uncompiled(self._before)))
            self._handles.append(optimizer.register_step_post_hook(uncompiled(self._after)))

    @property
    def within(self) -> bool:
        """Whether a step has begun and not ended."""
        return bool(self._running or self._stepped)

    def leave(self) -> None:
        """Tell no more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, optimizer: Optimizer, args: Args, kwargs: Kwargs) -> tuple[Any, Any] | None:
        frame = _caller()
        running = self._running.get(id(optimizer))
        if running is not None and _is_above(frame, running[0]):  # of a class whose step calls its parent's
            running[1] += 1
            return None
        again = id(optimizer) in self._stepped
        if again or (self._running and not self._stepped):  # an error ended the step before
            self._end("one of the optimizers stepped again before the others had" if again else None, again)
        first = not self._stepped
        self._running[id(optimizer)] = [id(frame), 0]
        if first:
            self._skipped = False
            self._loop.step_begins()
        return _with_closure(args, kwargs, self._loop.closure_evaluated) if first else None

    def _after(self, optimizer: Optimizer, args: Args, kwargs: Kwargs) -> None:
        running = self._running.get(id(optimizer))
        if running is None:
            return
        if running[1]:
            running[1] -= 1
            return
        del self._running[id(optimizer)]
        self._stepped.add(id(optimizer))
        found_inf = getattr(optimizer, "found_inf", None)  # a GradScaler's: a fused step that it skips is called
        self._skipped |= isinstance(found_inf, Tensor) and bool(found_inf.any())
        self._loop.optimizer_stepped(optimizer)
        if len(self._stepped) == self._count:
            self._end("the GradScaler skipped it" if self._skipped else None, True)

    def _end(self, why_not: str | None, told: bool) -> None:
        self._running.clear()
        self._stepped.clear()
        if told:
            self._loop.step_ended(why_not)


def uncompiled(function: F) -> F:
    """The function, called as it is where a loop is compiled: Dynamo would record the measurement."""
    called: F = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return called


def _caller() -> FrameType:
    """The frame of the step that called a hook."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("torch._dynamo"):
        frame = frame.f_back
    return frame


def _is_above(frame: FrameType, wanted: int) -> bool:
    above = frame.f_back
    while above is not None:
        if id(above) == wanted:
            return True
        above = above.f_back
    return False


def _with_closure(args: Args, kwargs: Kwargs, evaluated: Callable[[Any], None]) -> tuple[object, object] | None:
    """The arguments of a step, its closure one that tells of its first evaluation; None without a closure."""
    closure = kwargs.get("closure") if len(args) < 2 else args[1]
    if not callable(closure):
        return None
    seen: list[bool] = []

    def watched() -> Any:
        loss = closure()
        if not seen:
            seen.append(True)
            with torch.no_grad():
                evaluated(loss)
        return loss

    if len(args) < 2:
        return args, {**kwargs, "closure": watched}
    return (args[0], watched, *args[2:]), kwargs
