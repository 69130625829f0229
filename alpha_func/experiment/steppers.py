"""Optimizers at work in a run: each takes its step, or takes it and measures the quadratic along it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from alpha_func import tree
from alpha_func.optimizers.anatomy import cosine, weight_decay_share
from alpha_func.optimizers.pure import Direction, OptimizerStep, State
from alpha_func.quadratic import Quadratic
from alpha_func.torch_private import added
from alpha_func.transforms.directions import DirectionFunction, steepest_descent
from alpha_func.transforms.strategies import Step
from alpha_func.tree import Tree

Measurement = Callable[[DirectionFunction], Callable[..., Step]]  # grad_and_quadratic of the run's loss


class MeasuredStep(NamedTuple):
    """A step about to be taken, and the quadratic along it.

    ``direction`` is the step at the learning rate ``unit``, ``params`` where it ends at the optimizer's own, and
    ``slope`` its inner product with the gradient that the optimizer was given.
    """

    direction: Tree
    unit: float
    quadratic: Quadratic
    params: Tree
    slope: Tensor
    cosine: float
    weight_decay_share: float

    def per_learning_rate(self) -> Quadratic:
        """The quadratic with α a learning rate."""
        value, slope, curvature = self.quadratic
        return Quadratic(value, slope / self.unit, curvature / self.unit / self.unit)


class Stepper(Protocol):
    """An optimizer at work; both methods advance its state by one step, and make a new one of it."""

    state: State | None

    def advance(self, params: Tree, x: Tensor, y: Tensor) -> Tree:
        """The parameters after the optimizer's step."""
        ...

    def measure(self, params: Tree, x: Tensor, y: Tensor) -> MeasuredStep:
        """The optimizer's step, measured."""
        ...


class SteepestDescent:
    """Plain SGD: d = −g, so that α is a learning rate as it stands."""

    state: State | None = None

    def __init__(self, lr: float, gradient: Callable[..., Tree], measured: Measurement):
        self._lr, self._gradient, self._step = lr, gradient, measured(steepest_descent)

    def advance(self, params: Tree, x: Tensor, y: Tensor) -> Tree:
        """θ − lr·g."""
        return _moved(params, self._gradient(params, x, y), -self._lr)

    def measure(self, params: Tree, x: Tensor, y: Tensor) -> MeasuredStep:
        """Along −g, which has a cosine of 1 with itself and no weight decay in it."""
        grads, d, quadratic = self._step(params, x, y)
        return MeasuredStep(d, 1.0, quadratic, _moved(params, d, self._lr), tree.vdot(d, grads), 1.0, 0.0)


def _moved(params: Tree, d: Tree, lr: float) -> Tree:
    """θ + lr·d of the flat dicts that a module's parameters are: ``tree.axpy`` in one call."""
    return dict(zip(params, added(params.values(), d.values(), alpha=lr), strict=True))


class Stateful:
    """Any optimizer, by its own code: d is its step."""

    def __init__(self, lr: float, direction: Direction, gradient: Callable[..., Tree], measured: Measurement):
        self._lr, self._direction, self._gradient = lr, direction, gradient
        self._step = measured(self._take)
        self.state: State | None = None
        self._params: Tree = None
        self._taken: OptimizerStep

    def _take(self, grads: Tree) -> Tree:
        state = self._direction.init(self._params) if self.state is None else self.state
        self.state = state
        self._taken = self._direction.step(grads, state, self._params)
        return self._taken.direction

    def advance(self, params: Tree, x: Tensor, y: Tensor) -> Tree:
        """θ + d."""
        self._params = params
        self._take(self._gradient(params, x, y))
        self.state = self._taken.state
        return self._taken.params

    def measure(self, params: Tree, x: Tensor, y: Tensor) -> MeasuredStep:
        """Along the step that the optimizer takes."""
        self._params = params
        grads, d, quadratic = self._step(params, x, y)
        before, self.state = self.state, self._taken.state
        assert before is not None
        share = weight_decay_share(self._direction, d, grads, before, params)
        slope = tree.vdot(d, grads)
        return MeasuredStep(d, self._lr, quadratic, self._taken.params, slope, cosine(d, grads).item(), share.item())
