"""What is known of a step that was taken: one record, one unit, for an ``Observer`` and an experiment alike.

    θ, θ⁺   the parameters before and after     d = θ⁺ − θ     g   the gradient     h(α) = L(θ + αd)     q its quadratic

α counts steps: at α = 1 is the step that was taken. As a learning rate, α is α·lr.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch

NOTHING_MORE: Mapping[str, Any] = MappingProxyType({})
# Of an inner product with a gradient, over the norms of both: what two right ways of computing it may differ by.
ROUNDING = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


class StepRecord(NamedTuple):
    """The measurement of one step d = θ⁺ − θ.

    Attributes:
        step: the number of the step, from 0.
        loss: L(θ), before the step.
        slope: dᵀg.
        curvature: dᵀHd.
        alpha_steps: α* = −slope/curvature, in steps of the optimizer: 1 lands on the minimum of the quadratic, and at ½
            the quadratic predicts no progress.
        alpha_lr: α*·lr, the learning rate whose step would land on the minimum; NaN where the optimizer's step is not
            known to be proportional to its learning rate.
        lr: the learning rate, of the optimizer's first group.
        loss_after: L(θ⁺) of the same batch, with the same random draws; NaN where it was not asked for.
        gain_ratio: (h(0) − h(1)) / (q(0) − q(1)), the actual decrease over the predicted one: near 1 the
            quadratic holds as far as the step reaches, and α* can be trusted. NaN where the loss's own rounding is a
            tenth of that or more.
        step_norm: ‖d‖.
        directional_sharpness: dᵀHd / ‖d‖², the curvature along d whatever its length.
        cosine: of the angle between d and −g, with the g that the optimizer was given.
        weight_decay_share: the share of dᵀg that is due to weight decay, with the same g; 0 without weight decay, NaN
            where the optimizer cannot be run on copies.
        trained_loss: the loss that the loop passed to ``batch``; NaN where it passed none.
        trained_slope: dᵀg of the gradient that the optimizer was given: the slope of the loss that was trained.
        gradient_factor: the factor between the measured gradient and the one that the optimizer was given: 1, or other
            under clipping or a scaled loss; NaN where the gradients are not proportional, or it is not known.
        agrees: whether the loss that was measured is, up to that factor and to rounding, the loss that was trained;
            None where nothing tells.
        more: further columns: the seconds that an Observer took; epoch, batch and optimizer of an experiment.
    """

    step: int
    loss: float
    slope: float
    curvature: float
    alpha_steps: float
    alpha_lr: float
    lr: float
    loss_after: float
    gain_ratio: float
    step_norm: float
    directional_sharpness: float
    cosine: float
    weight_decay_share: float
    trained_loss: float
    trained_slope: float
    gradient_factor: float
    agrees: bool | None
    more: Mapping[str, Any] = NOTHING_MORE


class Record(Protocol):
    """A NamedTuple of numbers with the step that they belong to."""

    @property
    def step(self) -> int:
        """The number of the step."""

    def _asdict(self) -> dict[str, Any]: ...


def columns(record: Record) -> dict[str, Any]:
    """The record by the names of its columns, those of ``more`` the last.

    >>> from collections import namedtuple
    >>> columns(namedtuple("Row", "step alpha_steps more")(0, 1.5, {"epoch": 3}))
    {'step': 0, 'alpha_steps': 1.5, 'epoch': 3}
    """
    fields = record._asdict()
    more = fields.pop("more", NOTHING_MORE)
    return {**fields, **more}


def agreeing(trained: float, measured: float, *, scale: float, dtype: torch.dtype) -> bool | None:
    """Whether two inner products dᵀg are one number to the rounding of a dtype; None where they are not finite.

    Args:
        trained, measured: the two.
        scale: ‖d‖‖g‖, which they may be far smaller than; NaN where it is not known.
        dtype: what the less exact of them was computed in.

    >>> agreeing(-0.1, -0.1000001, scale=1.0, dtype=torch.float32), agreeing(-0.1, -0.2, scale=1.0, dtype=torch.float32)
    (True, False)
    >>> agreeing(0.0, 0.0, scale=math.nan, dtype=torch.float32)  # of a step that rounds to none
    True
    """
    if not (math.isfinite(trained) and math.isfinite(measured)):
        return None
    size = max(abs(trained), abs(measured), 0.0 if math.isnan(scale) else scale)
    return abs(trained - measured) <= ROUNDING[dtype] * size


def divided(numerator: float, denominator: float) -> float:
    """A quotient as IEEE has it.

    >>> divided(-1.0, 0.0), divided(0.0, 0.0)
    (-inf, nan)
    """
    if denominator:
        return numerator / denominator
    if numerator == 0 or math.isnan(numerator):
        return math.nan
    return math.copysign(math.inf, numerator) * math.copysign(1.0, denominator)
