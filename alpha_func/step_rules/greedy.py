"""To the minimum of the quadratic, or a part of the way."""

import math

import torch
from torch import Tensor

from alpha_func.quadratic import Quadratic
from alpha_func.step_rules.rule import Number, RuleState, StepRule, positive, share, step_rule


def greedy(*, first: float = 1.0) -> StepRule:
    """α = α*, the minimum of the quadratic: exact line search on it, as of Cauchy (1847).

    Greedy is not best: along −g, full-batch training by α* alternates between a few directions, sharpness rises, and a
    constant rate ends lower (Roulet et al. 2024; ``cdat`` with σ near 2 is theirs). α* < 0 where d ascends.

    Where the curvature is not positive α* is not a minimum: the last α is taken again.

    Args:
        first: α before the first minimum.

    >>> init, update = greedy()
    >>> _, state = update(Quadratic(*torch.tensor([5.0, -4.0, 8.0])), init())
    >>> update(Quadratic(*torch.tensor([5.0, -4.0, -8.0])), state)[0]
    tensor(0.5000)
    """
    return damped(1.0, first=first)


def damped(factor: float = 0.5, *, beta: float = 0.0, first: float = 1.0) -> StepRule:
    """α = factor·ᾱ, where ᾱ is the running average of α*, without the bias of its beginning.

        ᾱₜ = (1 − β) Σₛ βᵗ⁻ˢ α*ₛ / (1 − βᵗ)

    A factor below 1 allows for noise: a batch's own α* is too large (``data_sets.two_batch``).

    Where the curvature is not positive α* is not a minimum: it stays out of the average, and the last α is taken again.

    Args:
        factor: 1 is ``greedy``; at 2 the quadratic predicts no progress.
        beta: the share of the past in the average; 0: none.
        first: α before the first minimum.

    >>> init, update = damped(0.5, beta=0.5)
    >>> _, state = update(Quadratic(*torch.tensor([5.0, -4.0, 8.0])), init())
    >>> update(Quadratic(*torch.tensor([5.0, -8.0, 8.0])), state)[0]  # 0.5 (0.5·0.5 + 1) / 1.5
    tensor(0.4167)
    """
    positive("factor", factor), share("beta", beta)

    def choose(quadratic: Quadratic, state: RuleState, gain_ratio: Number) -> tuple[Tensor, tuple[Number, Number]]:
        total, weight = state.memory
        alpha = torch.where(quadratic.is_minimum, quadratic.alpha, math.nan)
        total, weight = beta * total + (1 - beta) * alpha, beta * weight + (1 - beta)
        return factor * (total / weight), (total, weight)

    return step_rule(first, (0.0, 0.0), choose)
