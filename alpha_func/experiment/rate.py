"""The learning rate of a training: a number, or chosen at every step by a rule."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.experiment.optimizers import Algorithm
from alpha_func.experiment.rules import RULES, step_rule_of
from alpha_func.experiment.settings import Experiment
from alpha_func.experiment.steppers import MeasuredStep
from alpha_func.quadratic import Quadratic
from alpha_func.step_rules import StepRule

RunState = Mapping[str, Any]  # of a run, or a part of it: what it goes on from


class Rate:
    """``lr``, and where a rule chooses it, what the rule knows of the steps so far.

    >>> Rate(Experiment(), Experiment().algorithms()[0]).lr
    0.01
    """

    def __init__(self, experiment: Experiment, algorithm: Algorithm):
        self.lr, self.asks_gain = algorithm.nominal_lr, False
        self._rule: StepRule | None = None
        self._gain_ratio = math.nan  # of the last step
        if isinstance(algorithm.lr, str):
            self._rule = step_rule_of(algorithm.lr, experiment.factor, experiment.ema, self.lr)
            self._known, self.asks_gain = self._rule.init(), RULES[algorithm.lr].asks_gain

    @property
    def is_fixed(self) -> bool:
        """Whether it is a number."""
        return self._rule is None

    @property
    def state(self) -> RunState:
        """Where it stands, in plain numbers."""
        known = [] if self._rule is None else [float(number) for number in tree.leaves(self._known)]
        return {"lr": self.lr, "known": known, "gain_ratio": self._gain_ratio}

    @state.setter
    def state(self, state: RunState) -> None:
        self.lr, self._gain_ratio = state["lr"], state["gain_ratio"]
        if self._rule is not None:
            self._known = tree.unflatten(state["known"], tree.structure(self._rule.init()))

    def choose(self, measured: MeasuredStep) -> None:
        """The rate of the step that was measured; the last one where the dtype cannot hold the rule's."""
        if self._rule is None:
            return
        exact = measured._replace(quadratic=Quadratic(*(number.double() for number in measured.quadratic)))
        alpha, self._known = self._rule.update(exact.per_learning_rate(), self._known, self._gain_ratio)
        if abs(lr := float(alpha)) / measured.unit <= torch.finfo(measured.quadratic.value.dtype).max:
            self.lr = lr

    def gained(self, measured: MeasuredStep, loss_after: Tensor) -> None:
        """What the loss is where the step ended, for a rule that asks for it."""
        self._gain_ratio = float(measured.quadratic.gain_ratio(loss_after, self.lr / measured.unit))
