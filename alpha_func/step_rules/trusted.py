"""As far as the quadratic has proved right: a radius that the gain ratio of the last step shrinks and grows.

    ρ = (h(0) − h(α)) / (q(0) − q(α))        the gain ratio: what the step gained over what the quadratic promised

The classical trust region on a line (Nocedal and Wright, Numerical Optimization, 2006, algorithm 4.1), with the cutoffs
and factors of optimistix's ClassicalTrustRegion (Rader, Lyons and Kidger 2024).
"""

import torch
from torch import Tensor

from alpha_func.quadratic import Quadratic
from alpha_func.step_rules.rule import Number, RuleState, StepRule, as_number_of, positive, step_rule

LOW, HIGH = 0.01, 0.99


def accepts(gain_ratio: Number, *, low: float = LOW) -> Tensor:
    """Whether a step with this gain ratio is to be kept: ρ ≥ low, or ρ is NaN, which says nothing.

    >>> accepts(0.5), accepts(-0.48)
    (tensor(True), tensor(False))
    """
    return ~(torch.as_tensor(gain_ratio) < low)


def trusted(
    rule: StepRule,
    *,
    radius: float = 1.0,
    low: float = LOW,
    high: float = HIGH,
    shrink: float = 0.25,
    grow: float = 3.5,
) -> StepRule:
    """The step of another rule, at most as long as a radius: |α| ≤ Δ.

        Δ ← shrink·|α|   where ρ < low        Δ ← grow·Δ   where ρ ≥ high and |α| was Δ        Δ else

    ρ is that of the last step, ``update``'s ``gain_ratio``; where it is NaN the radius stays. The caller may
    undo a step that is not accepted (``accepts``); the radius shrinks either way.

    Where the curvature is not positive, the other rule decides, within the radius.

    Args:
        rule: the other rule.
        radius: Δ before the first step, a multiple of the direction.
        low, high: the gain ratios from which a step is a failure, and a success.
        shrink, grow: the factors of the radius.

    >>> from alpha_func.step_rules import greedy
    >>> init, update = trusted(greedy(), radius=0.2)
    >>> quadratic = Quadratic(*torch.tensor([5.0, -4.0, 8.0]))
    >>> alpha, state = update(quadratic, init())
    >>> alpha, update(quadratic, state, 1.0)[0], update(quadratic, state, -0.48)[0]  # 0.2·3.5 is beyond α*
    (tensor(0.2000), tensor(0.5000), tensor(0.0500))
    """
    if not isinstance(rule, StepRule):
        raise TypeError(f"rule must be a StepRule such as greedy(), got {type(rule).__name__}")
    for name, value in (("radius", radius), ("low", low), ("high", high), ("shrink", shrink), ("grow", grow)):
        positive(name, value)
    if not (low < high and shrink < 1 < grow):
        raise ValueError(
            f"low {low}, high {high}, shrink {shrink}, grow {grow}: expected low < high and shrink < 1 < grow"
        )

    def choose(quadratic: Quadratic, state: RuleState, gain_ratio: Number) -> tuple[Tensor, tuple[Number, RuleState]]:
        before, inner = state.memory
        ratio, last, delta = (as_number_of(quadratic, number) for number in (gain_ratio, state.alpha, before))
        length = last.abs()
        grown = torch.where((ratio >= high) & (length >= delta), grow * delta, delta)
        delta = torch.where((ratio < low) & (length > 0), shrink * torch.minimum(length, delta), grown)
        alpha, inner = rule.update(quadratic, inner)
        return torch.maximum(torch.minimum(alpha, delta), -delta), (delta, inner)

    init = rule.init()
    return step_rule(min(float(init.alpha), radius), (float(radius), init), choose)
