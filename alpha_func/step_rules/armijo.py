"""Backtracking to a sufficient decrease, with the quadratic in place of the loss: no forward passes."""

import math

import torch

from alpha_func.quadratic import Quadratic
from alpha_func.step_rules.rule import Number, RuleState, StepRule, positive, share, step_rule


def armijo(*, first: float = 1.0, shrink: float = 0.5, decrease: float = 1e-4) -> StepRule:
    """The longest α of first, first·shrink, first·shrink², … with q(α) ≤ q(0) + decrease·α·slope.

    Armijo (1966). The condition is α ≤ 2(1 − decrease)·α* in closed form, so that nothing is tried: with ``decrease``
    ½ no α is beyond the minimum, near 0 none is beyond where q is back at q(0).

    Where the curvature is not positive and d descends, the quadratic falls for ever and ``first`` is the step. Where d
    ascends (slope ≥ 0) no α satisfies the condition and the step is 0.

    Args:
        first: the α that is tried first, and the longest.
        shrink: what each failure multiplies it by, between 0 and 1.
        decrease: c₁, the share of the slope's promise that must be kept, from 0 to below 1.

    >>> init, update = armijo(first=4.0)
    >>> update(Quadratic(*torch.tensor([5.0, -4.0, 8.0])), init())[0]  # α* = ½, and at 1 q is back at q(0)
    tensor(0.5000)
    """
    positive("shrink", share("shrink", shrink)), share("decrease", decrease)

    def choose(quadratic: Quadratic, state: RuleState, gain_ratio: Number) -> tuple[torch.Tensor, tuple[()]]:
        bound = 2 * (1 - decrease) * quadratic.alpha
        # As many shrinkings as bring first to the bound; rounding of the logarithm may be one off, either way.
        count = ((bound / first).log() / math.log(shrink)).ceil().clamp(min=0)
        longer, alpha, shorter = (first * shrink ** (count + k).clamp(min=0) for k in (-1, 0, 1))
        alpha = torch.where(longer <= bound, longer, torch.where(alpha <= bound, alpha, shorter))
        alpha = torch.where(quadratic.is_minimum, alpha, first)
        return torch.where(quadratic.is_descent, alpha, torch.zeros_like(alpha)), ()

    return step_rule(first, (), choose)
