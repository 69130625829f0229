"""What answers the verbs: every loss has an engine, and the verbs ask nothing else of it.

    quadratic(params, direction, args, kwargs)   value, slope and curvature along a direction
    product(params, direction, args, kwargs)     Hd
    step(params, direction, args, kwargs)        the gradient, the direction made of it, the quadratic along that
    taylor(params, direction, order, args, kwargs)   the derivatives along a direction up to an order
    products(params, directions, args, kwargs)   the gradient, and Hd for each of several directions
    span(params, directions, args, kwargs)       the quadratic in the span of several directions
    gauss_newton(params, direction, natural, args, kwargs)   the quadratic with dᵀGd, in natural parameters or not

Here is the engine of a plain function: a strategy of torch.func, behind the guard. A loss that is made of another one
(captured, cut into chunks) brings its own, as ``loss.engine(strategy)``. Engines trust: the verbs have validated.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.errors import StrategyError
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.losses.module_loss import LossOfLoss, module_loss_of
from alpha_func.losses.parting import parted
from alpha_func.losses.sharding import refuse_uncaptured
from alpha_func.quadratic import Quadratic
from alpha_func.taylor import Taylor
from alpha_func.torch_private import uncompiled
from alpha_func.transforms import by_autograd, failures
from alpha_func.transforms.directions import DirectionFunction
from alpha_func.transforms.gauss_newton import GaussNewton
from alpha_func.transforms.guard import Guard, GuardedCall, Operators, sealed
from alpha_func.transforms.higher_orders import HigherOrders
from alpha_func.transforms.strategies import DEFAULT_STRATEGY, Loss, Products, Step, Strategy, StrategyLike
from alpha_func.transforms.tower import derivatives_along
from alpha_func.transforms.validation import resolve_strategy, scalar_loss
from alpha_func.tree import Tree

T = TypeVar("T")
SpanNumbers = tuple[Tensor, Tensor, Tensor]  # value, slopes (k), curvature (k, k)


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

    def taylor(self, params: Tree, direction: Tree, order: int, args: Args, kwargs: Kwargs) -> Taylor:
        """The derivatives along ``direction`` up to ``order``, which is at least 3."""
        raise StrategyError(_NOT_ANSWERED.format(type(self).__name__, "derivatives beyond the second"))

    def products(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> Products:
        """L(θ), g and Hd for each direction."""
        raise StrategyError(_NOT_ANSWERED.format(type(self).__name__, "products with several directions"))

    def span(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> SpanNumbers:
        """Value, slopes and curvature in the span of ``directions``, by a product with each."""
        value, grads, products = self.products(params, directions, args, kwargs)
        slopes = torch.stack([tree.vdot(d, grads) for d in directions])
        matrix = torch.stack([torch.stack([tree.vdot(d, hd) for hd in products]) for d in directions])
        return value, slopes, (matrix + matrix.mT) / 2

    def gauss_newton(self, params: Tree, direction: Tree, natural: bool, args: Args, kwargs: Kwargs) -> Quadratic:
        """The quadratic with the Gauss-Newton curvature."""
        raise StrategyError(_NOT_ANSWERED.format(type(self).__name__, "Gauss-Newton curvature"))


_NOT_ANSWERED = "this loss is evaluated by {}, which does not compute {}: use the loss that it wraps"


def engine_of(loss: Callable[..., Tensor], strategy: StrategyLike | None) -> Engine:
    """The engine that a loss brings, or that of a plain function."""
    return loss.engine(strategy) if isinstance(loss, LossOfLoss) else Uncaptured(loss, strategy)


class Uncaptured(Engine):
    """The engine of a function, differentiated by a strategy.

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
        self._higher = HigherOrders()
        self._gauss_newton: dict[bool, GaussNewton] = {}  # by whether it is in natural parameters
        self._by_autograd = False  # whether the loss has been found not to run under torch.func

    def quadratic(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Quadratic:
        """The strategy's quadratic."""
        params = tree.map(_dense, params)

        def attempt(strategy: Strategy, loss: Loss) -> Quadratic:
            return strategy.quadratic(loss, params, direction)

        found, seen = self._run(attempt, lambda found, _: (found, direction), params, args, kwargs)
        return _sealed(found, seen.wrong_thrice())

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

        found, seen = self._run(attempt, line, params, args, kwargs)
        wrong_thrice = seen.wrong_thrice()
        return tree.map(lambda leaf: sealed(leaf, wrong_thrice), found)

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

        found, seen = self._run(attempt, line, params, args, kwargs, own)
        return found._replace(quadratic=_sealed(found.quadratic, seen.wrong_thrice()))

    def taylor(self, params: Tree, direction: Tree, order: int, args: Args, kwargs: Kwargs) -> Taylor:
        """By repeated reverse mode, proven by differences for each set of operators that it passes through."""
        params = tree.map(_dense, params)

        def attempt(strategy: Strategy, loss: Loss) -> Taylor:
            value, slope, curvature, *higher = derivatives_along(loss, params, direction, order)
            return Taylor(value, slope, curvature, tuple(higher))

        def line(found: Taylor, _: Loss) -> tuple[Quadratic, Tree]:
            return found.quadratic, direction

        found, seen = self._run(attempt, line, params, args, kwargs)
        with twice_differentiable():
            self._higher.require(self._loss, params, direction, order, args, kwargs, seen)
        return found

    def products(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> Products:
        """The strategy's, the gradient shared where it can be."""
        params = tree.map(_dense, params)

        def attempt(strategy: Strategy, loss: Loss) -> Products:
            return strategy.products(loss, params, directions)

        def line(found: Products, _: Loss) -> tuple[Quadratic, Tree]:
            d, hd = directions[0], found.products[0]
            return Quadratic(found.value, tree.vdot(d, found.grads), tree.vdot(d, hd)), d

        found, seen = self._run(attempt, line, params, args, kwargs)
        wrong_thrice = seen.wrong_thrice()
        return found._replace(products=[tree.map(lambda leaf: sealed(leaf, wrong_thrice), hd) for hd in found.products])

    def gauss_newton(self, params: Tree, direction: Tree, natural: bool, args: Args, kwargs: Kwargs) -> Quadratic:
        """The strategy's quadratic of the criterion, along what the direction does to the outputs."""
        if natural not in self._gauss_newton:
            source = module_loss_of(self._loss)
            assert source is not None  # the verb has told the loss apart
            strategy = self._strategy

            def quadratic(criterion: Callable[..., Tensor], z: Tree, t: Tree, targets: Args) -> Quadratic:
                return Uncaptured(criterion, strategy).quadratic(z, t, targets, {})

            apart = parted(source, "gauss_newton", natural=natural)
            self._gauss_newton[natural] = GaussNewton(source, apart, quadratic)
        with twice_differentiable():
            return self._gauss_newton[natural](tree.map(_dense, params), direction, *args, **kwargs)

    def _run(
        self,
        attempt: Callable[[Strategy, Loss], T],
        line: Callable[[T, Loss], tuple[Quadratic, Tree]],
        params: Tree,
        args: Args,
        kwargs: Kwargs,
        own: Sequence[Exception] = (),
    ) -> tuple[T, GuardedCall]:
        """What the attempt gives, at a first call its ``line`` compared with plain autograd; what was seen of it."""
        loss = scalar_loss(self._loss, args, kwargs)
        with twice_differentiable(), uncompiled():
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
            seen.settles()
        return found, seen

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


def _sealed(quadratic: Quadratic, wrong_thrice: tuple[str, ...]) -> Quadratic:
    return quadratic._replace(curvature=sealed(quadratic.curvature, wrong_thrice))
