"""What a run records beyond the quadratic along its step, where it is asked for.

trust_radius                the |α|, in steps, up to which the quadratic is within a tenth of itself; inf of no step
best_lr, best_momentum      what together would have been best: θ⁺ = θ + best_lr·d + best_momentum·(θ − θ₋), d the
optimizer's step at a learning rate of 1 without its momentum, θ₋ before the last step; nan where d is zero
"""

import math
from collections.abc import Callable

from torch import Tensor, func

from alpha_func import tree
from alpha_func.experiment.optimizers import Algorithm
from alpha_func.experiment.settings import CAPTURED, Experiment
from alpha_func.experiment.steppers import MeasuredStep
from alpha_func.optimizers.pure import State
from alpha_func.transforms.along import taylor_along
from alpha_func.transforms.directions import steepest_descent
from alpha_func.transforms.momentum import lr_and_momentum
from alpha_func.tree import Tree

_ORDER = 3


class Beyond:
    """The columns of a step.

    Args:
        experiment: says what is asked for.
        algorithm: the optimizer of the run.
        loss, plain: the loss of the run, and the same uncaptured.

    Attributes:
        last: θ₋, where it is needed; None before the first step.
    """

    def __init__(
        self, experiment: Experiment, algorithm: Algorithm, loss: Callable[..., Tensor], plain: Callable[..., Tensor]
    ):
        strategy = None if experiment.strategy == CAPTURED else experiment.strategy
        self._taylor = taylor_along(loss, order=_ORDER) if experiment.trust_radius else None
        self._best = lr_and_momentum(loss, strategy=strategy) if experiment.best_momentum else None
        self._gradient = func.grad(plain)
        self._direction = None if algorithm.is_steepest_descent else algorithm.direction()
        self.last: Tree | None = None

    def __call__(
        self, params: Tree, measured: MeasuredStep, state: State | None, x: Tensor, y: Tensor, lr: float
    ) -> dict[str, float]:
        """Of the step from ``params`` at this learning rate, with the optimizer's state before it."""
        found: dict[str, float] = {}
        if self._taylor is not None:
            radius = self._taylor(params, measured.direction, x, y).trust_radius()
            found["trust_radius"] = radius.item() * measured.unit / lr if lr else math.inf  # no step is too long
        if self._best is not None:
            previous = tree.zeros_like(params) if self.last is None else tree.sub(params, self.last)
            d, lr_, momentum = self._step(params, state, x, y), math.nan, math.nan
            if any(leaf.any() for leaf in tree.leaves(d)):  # of a step that is zero none is best
                best = self._best(params, d, previous, x, y)
                lr_, momentum = best.lr.item(), best.momentum.item()
            found |= {"best_lr": lr_, "best_momentum": momentum}
        return found

    def stepped(self, params: Tree) -> None:
        """A step was taken from there."""
        if self._best is not None:
            self.last = params

    def _step(self, params: Tree, state: State | None, x: Tensor, y: Tensor) -> object:
        grads = self._gradient(params, x, y)
        if self._direction is None:
            return steepest_descent(grads)
        state = self._direction.init(params) if state is None else state
        return self._direction.without_momentum().update(grads, state, params)[0]
