"""Curvature dynamics aware tuning: stay at the edge of stability instead of stepping to the minimum.

    η = σ·n̄/d̄        n = max(−slope, 0)        d = |curvature| + ε        n̄, d̄  their running averages

Roulet, Agarwala, Grill, Swirszcz, Blondel and Pedregosa, Stepping on the Edge: Curvature Aware Learning Rate Tuners
(NeurIPS 2024). The averages are of numerator and denominator, each by itself: a noisy curvature near zero is then no
long step, as it is in an average of ratios.
"""

from torch import Tensor

from alpha_func.quadratic import Quadratic
from alpha_func.step_rules.rule import Number, RuleState, StepRule, positive, share, step_rule


def cdat(sigma: float = 2.0, *, beta: float = 0.0, eps: float = 0.0, first: float = 1.0) -> StepRule:
    """α = σ·n̄/d̄, with n = max(−slope, 0) and d = |curvature| + ε.

    At σ = 1 it is ``greedy`` where the quadratic has a minimum; at σ = 2 the quadratic predicts no progress, which is
    where constant rates end by themselves (the edge of stability), and where full-batch training went fastest in the
    paper. With batches, noise makes a smaller σ the better one.

    Where the curvature is negative its magnitude is taken: the step is as long as if the quadratic were turned over.
    Where d ascends (slope ≥ 0) the step is 0, or what the average of earlier steps leaves. At curvature 0 with ε = 0
    the last α is taken again.

    Args:
        sigma: σ.
        beta: the share of the past in both averages; 0: none, as in the paper's full-batch runs.
        eps: ε, in units of the curvature.
        first: α before the first finite one.

    >>> import torch
    >>> init, update = cdat(2.0)
    >>> update(Quadratic(*torch.tensor([5.0, -4.0, 8.0])), init())[0]
    tensor(1.)
    >>> update(Quadratic(*torch.tensor([5.0, -4.0, -8.0])), init())[0]
    tensor(1.)
    """
    positive("sigma", sigma), share("beta", beta)
    if eps:
        positive("eps", eps)

    def choose(quadratic: Quadratic, state: RuleState, gain_ratio: Number) -> tuple[Tensor, tuple[Number, Number]]:
        n, d = state.memory  # both begin at 0, a bias that their ratio is free of
        n = beta * n + (1 - beta) * (-quadratic.slope).clamp(min=0)
        d = beta * d + (1 - beta) * (quadratic.curvature.abs() + eps)
        return sigma * n / d, (n, d)

    return step_rule(first, (0.0, 0.0), choose)
