"""What answers the verbs: every loss has an engine, and the verbs ask nothing else of it.

    quadratic(params, direction, args, kwargs)   value, slope and curvature along a direction
    product(params, direction, args, kwargs)     Hd
    step(params, direction, args, kwargs)        the gradient, the direction made of it, the quadratic along that

Here is the engine of a plain function: a strategy of torch.func, behind the guard. A loss that is made of another one
(captured, cut into chunks) brings its own, as ``loss.engine(strategy)``. Engines trust: the verbs have validated.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.errors import StrategyError
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.losses.module_loss import LossOfLoss
from alpha_func.losses.sharding import refuse_uncaptured
from alpha_func.quadratic import Quadratic
from alpha_func.transforms import by_autograd, failures
from alpha_func.transforms.directions import DirectionFunction
from alpha_func.transforms.guard import Guard, Operators, sealed
from alpha_func.transforms.strategies import DEFAULT_STRATEGY, Loss, Step, Strategy, StrategyLike
from alpha_func.transforms.validation import resolve_strategy, scalar_loss
from alpha_func.tree import Tree

T = TypeVar("T")
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Engine(Protocol):
    """How a loss answers the verbs."""

    def quadratic(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Quadratic:
        """The quadratic along ``direction``, which has the structure of ``params``."""
        ...

    def product(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Tree:
        """Hd, of the structure of ``params``."""
        ...

    def step(self, params: Tree, direction: DirectionFunction, args: Args, kwargs: Kwargs) -> Step:
        """The gradient, ``direction`` of it, and the quadratic along that."""
        ...


def engine_of(loss: Callable[..., Tensor], strategy: StrategyLike | None) -> Engine:
    """The engine that a loss brings, or that of a plain function."""
    return loss.engine(strategy) if isinstance(loss, LossOfLoss) else Uncaptured(loss, strategy)


class Uncaptured:
    """The engine of a function, differentiated as it is by a strategy.

    Args:
        loss: the function.
        strategy: left out, double backward.
        operators: those of a program; left out, the guard looks at the formulas that autograd runs.
    """

    def __init__(
        self, loss: Callable[..., Tensor], strategy: StrategyLike | None, operators: Operators | None = None
    ) -> None:
        self._loss, self._strategy = loss, resolve_strategy(strategy or DEFAULT_STRATEGY)
        self._guard = Guard(self._strategy, operators)
        self._by_autograd = False  # whether the loss has been found not to run under torch.func

    def quadratic(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Quadratic:
        """The strategy's quadratic."""
        params = tree.map(_dense, params)

        def attempt(strategy: Strategy, loss: Loss) -> Quadratic:
            return strategy.quadratic(loss, params, direction)

        found, third = self._run(attempt, lambda found, _: (found, direction), params, args, kwargs)
        return _sealed(found, third)

    def product(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Tree:
        """The strategy's Hd."""
        params = tree.map(_dense, params)

        def attempt(strategy: Strategy, loss: Loss) -> Tree:
            return strategy.product(loss, params, direction)

        def line(_: Tree, loss: Loss) -> tuple[Quadratic, Tree]:
            found = self._attempt(
                lambda s, loss: s.quadratic(loss, params, direction), self._strategy, loss, params, ()
            )
            return found, direction

        found, third = self._run(attempt, line, params, args, kwargs)
        return tree.map(lambda leaf: sealed(leaf, third), found)

    def step(self, params: Tree, direction: DirectionFunction, args: Args, kwargs: Kwargs) -> Step:
        """The strategy's step."""
        params = tree.map(_dense, params)
        own: list[Exception] = []

        def watched(grads: Tree) -> Tree:
            try:
                return direction(grads)
            except Exception as error:
                own.append(error)
                raise

        def attempt(strategy: Strategy, loss: Loss) -> Step:
            return strategy.step(loss, params, watched)

        def line(found: Step, _: Loss) -> tuple[Quadratic, Tree]:
            return found.quadratic, found.direction

        found, third = self._run(attempt, line, params, args, kwargs, own)
        return found._replace(quadratic=_sealed(found.quadratic, third))

    def _run(
        self,
        attempt: Callable[[Strategy, Loss], T],
        line: Callable[[T, Loss], tuple[Quadratic, Tree]],
        params: Tree,
        args: Args,
        kwargs: Kwargs,
        own: Sequence[Exception] = (),
    ) -> tuple[T, tuple[str, ...]]:
        """What the attempt gives, at a first call its ``line`` compared with plain autograd; the operators whose third
        derivative is wrong."""
        loss = scalar_loss(self._loss, args, kwargs)
        with twice_differentiable():
            seen = self._guard(self._loss, params, args, kwargs)
            watched = seen.watched(loss)
            found = failures.run(
                lambda s: self._attempt(attempt, s, watched if s is self._strategy else loss, params, own),
                self._strategy,
                loss,
                params,
                captured=lambda: attempt(self._strategy, scalar_loss(_captured(self._loss), args, kwargs)),
                own=own,
            )
            if seen.plainly is not None:
                seen.plainly.require(*line(found, loss))
        return found, seen.third()

    def _attempt(
        self,
        attempt: Callable[[Strategy, Loss], T],
        strategy: Strategy,
        loss: Loss,
        params: Tree,
        own: Sequence[Exception],
    ) -> T:
        """The attempt; by autograd alone where double backward does not run under torch.func, and runs without it."""
        if strategy.name != DEFAULT_STRATEGY or not strategy.is_known or not by_autograd.applies(params):
            return attempt(strategy, loss)
        if self._by_autograd:
            return attempt(by_autograd.BY_AUTOGRAD, loss)
        try:
            return attempt(strategy, loss)
        except (torch.OutOfMemoryError, StrategyError):
            raise
        except RuntimeError as error:
            if any(error is one for one in own):
                raise
            try:
                found = attempt(by_autograd.BY_AUTOGRAD, loss)
            except RuntimeError:
                raise error from None
            self._by_autograd = True
            return found


def _captured(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    from alpha_func.capture import capture  # which is made of engines

    if isinstance(loss, LossOfLoss):
        raise StrategyError("it is captured already, or cannot be")
    return capture(loss)


def _dense(leaf: Tensor) -> Tensor:
    """The tensor without entries that share memory, which forward mode would write its zeros to."""
    refuse_uncaptured("params", leaf)
    return leaf.contiguous() if 0 in leaf.stride() else leaf


def _sealed(quadratic: Quadratic, third: tuple[str, ...]) -> Quadratic:
    return quadratic._replace(curvature=sealed(quadratic.curvature, third))
