"""What a step rule is: from the quadratic of a line to the step α that is taken along it.

    q(α) = value + slope·α + ½·curvature·α²        α* = −slope/curvature        α a multiple of the direction d

A rule is a pair of pure functions, as an optax transformation is: it remembers nothing itself. α is in the unit of the
quadratic that it is given: for d = −g, and for a quadratic per learning rate, a learning rate.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.quadratic import Quadratic

Number = float | Tensor

Memory = Any  # a rule's own: what it keeps from step to step


class RuleState(NamedTuple):
    """What a rule remembers of the steps so far: the last α, and a tree of its own numbers."""

    alpha: Number
    memory: Memory


class Update(Protocol):
    """``update(quadratic, state, gain_ratio=nan) -> (α, state)``."""

    def __call__(self, quadratic: Quadratic, state: RuleState, gain_ratio: Number = math.nan) -> tuple[Tensor, Memory]:
        """The next step.

        Args:
            quadratic: along the direction that is about to be stepped.
            state: from ``init()``, or the last update.
            gain_ratio: (h(0) − h(α)) / (q(0) − q(α)) of the last step, for a rule that asks for it; NaN: not known.
        """
        ...


class StepRule(NamedTuple):
    """How far to step: ``init() -> state`` and ``update(quadratic, state, gain_ratio=nan) -> (α, state)``.

    Both are pure, and go through ``vmap`` over quadratics of shape (n,). α has the dtype of the quadratic. Where a
    quadratic is not finite, or a rule gives no finite α for it, α is the last one again and the state stays.

    >>> from alpha_func.step_rules import greedy
    >>> init, update = greedy()
    >>> alpha, state = update(Quadratic(*torch.tensor([5.0, -4.0, 8.0])), init())
    >>> alpha
    tensor(0.5000)
    """

    init: Callable[[], RuleState]
    update: Update


Choose = Callable[[Quadratic, RuleState, Number], tuple[Tensor, Memory]]


def step_rule(first: float, memory: object, choose: Choose) -> StepRule:
    """The rule whose α and next memory are ``choose(quadratic, state, gain_ratio)``.

    Args:
        first: α where the very first quadratic gives none.
        memory: a tree of floats, before the first step.
        choose: NaN or ±inf in place of α says that the rule has none.
    """
    positive("first", first)
    structure = tree.structure(RuleState(float(first), memory))

    def update(quadratic: Quadratic, state: RuleState, gain_ratio: Number = math.nan) -> tuple[Tensor, RuleState]:
        _check(quadratic)
        if tree.structure(state) != structure:
            raise TypeError("state is not this rule's: begin with init(), and give what the last update returned")
        if not isinstance(gain_ratio, Tensor | float | int):
            raise TypeError(f"gain_ratio must be a number, nan where it is not known, got {gain_ratio!r}")
        alpha, following = choose(quadratic, state, gain_ratio)
        fine = alpha.isfinite() & quadratic.slope.isfinite() & quadratic.curvature.isfinite()

        def kept(new: Number, old: Number) -> Tensor:
            return torch.where(fine, as_number_of(quadratic, new), as_number_of(quadratic, old))

        chosen = tree.map(kept, RuleState(alpha, following), state)
        return chosen.alpha, chosen

    return StepRule(lambda: RuleState(float(first), memory), update)


def _check(quadratic: Quadratic) -> None:
    if not isinstance(quadratic, Quadratic) or not all(isinstance(number, Tensor) for number in quadratic):
        raise TypeError(
            f"quadratic must be a Quadratic of tensors, got {type(quadratic).__name__}: pass what quadratic_along or "
            "grad_and_quadratic returned"
        )


def as_number_of(quadratic: Quadratic, number: Number) -> Tensor:
    """The number as a tensor of the quadratic's dtype and device."""
    return torch.as_tensor(number, dtype=quadratic.slope.dtype, device=quadratic.slope.device)


def positive(name: str, value: float) -> float:
    """``value``, if it is a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}: give a positive number, such as 1.0")
    return value


def share(name: str, value: float) -> float:
    """``value``, if it is a number from 0 to below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}: give a number from 0 to below 1, such as 0.9")
    return value
