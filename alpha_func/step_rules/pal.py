"""The parabolic approximation line search, with the exact parabola."""

import torch

from alpha_func.quadratic import Quadratic
from alpha_func.step_rules.rule import Number, RuleState, StepRule, positive, step_rule


def pal(
    *, adaptation: float = 1 / 0.6, measuring_step: float = 0.1, largest: float = 10**0.5, first: float = 1.0
) -> StepRule:
    """α = min(adaptation·α*, largest), as PAL steps; its parabola is the quadratic itself.

    Mutschler and Zell, Parabolic Approximation Line Search for DNNs (NeurIPS 2020). Theirs lays the parabola through
    L(θ), the slope, and the loss at a probe, μ = ``measuring_step`` away along the normalised direction; the exact
    curvature is its limit for μ → 0. The lengths here are multiples of the direction, like every α. The paper's are
    distances: for those, pass the quadratic along d/‖d‖.

    Where the curvature is not positive and d descends, the step is ``measuring_step``. Where d ascends (slope ≥ 0) it
    is 0.

    Args:
        adaptation: how far beyond the minimum; theirs from 1 to 1.7.
        measuring_step: theirs from 0.1 to 1.
        largest: α at most.
        first: α where the very first quadratic is not finite.

    >>> init, update = pal(adaptation=1.5)
    >>> update(Quadratic(*torch.tensor([5.0, -4.0, 8.0])), init())[0]
    tensor(0.7500)
    >>> update(Quadratic(*torch.tensor([5.0, -4.0, -8.0])), init())[0]
    tensor(0.1000)
    """
    for name, value in (("adaptation", adaptation), ("measuring_step", measuring_step), ("largest", largest)):
        positive(name, value)

    def choose(quadratic: Quadratic, state: RuleState, gain_ratio: Number) -> tuple[torch.Tensor, tuple[()]]:
        alpha = (adaptation * quadratic.alpha).clamp(max=largest)
        alpha = torch.where(quadratic.is_minimum, alpha, min(measuring_step, largest))
        return torch.where(quadratic.is_descent, alpha, torch.zeros_like(alpha)), ()

    return step_rule(first, (), choose)
