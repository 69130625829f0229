"""To where the tangent reaches the least value that the loss can have."""

import math

import torch

from alpha_func.quadratic import Quadratic
from alpha_func.step_rules.rule import Number, RuleState, StepRule, positive, step_rule


def polyak(lower: float = 0.0, *, factor: float = 1.0, largest: float = math.inf, first: float = 1.0) -> StepRule:
    """α = min(factor·(value − lower) / −slope, largest); for d = −g that is (L − L*)/‖g‖².

    Polyak, Introduction to Optimization (1987); with ``largest``, the stochastic SPS_max of Loizou, Vaswani, Laradji
    and Lacoste-Julien (2021), whose c is 1/factor.

    The curvature is not used, so nothing changes where it is not positive. Where d ascends (slope ≥ 0), or the
    loss is at or below ``lower``, the step is 0.

    Args:
        lower: L*, a value that the loss cannot fall below; 0 for most losses.
        factor: between 0 and 2 the distance to a minimum of a convex loss shrinks.
        largest: α at most.
        first: α where the very first quadratic is not finite.

    >>> init, update = polyak()
    >>> update(Quadratic(*torch.tensor([2.0, -4.0, 4.0])), init())[0]  # α* = 1; a parabola needs twice the tangent's
    tensor(0.5000)
    """
    positive("factor", factor)
    if largest != math.inf:
        positive("largest", largest)
    if isinstance(lower, bool) or not isinstance(lower, int | float) or not math.isfinite(lower):
        raise ValueError(f"lower is {lower!r}: give the least value that the loss can have, such as 0.0")

    def choose(quadratic: Quadratic, state: RuleState, gain_ratio: Number) -> tuple[torch.Tensor, tuple[()]]:
        gap = (quadratic.value - lower).clamp(min=0)
        alpha = (factor * gap / -quadratic.slope).clamp(max=largest)
        return torch.where(quadratic.is_descent, alpha, torch.zeros_like(alpha)), ()

    return step_rule(first, (), choose)
