"""Derivatives of any order along a line by repeated reverse mode, held against differences.

    h(α) = L(θ + αd)        h′ = ∇h, h″ = ∇h′, ...        cost: every order two to three times that of the last

PyTorch's formulas have been verified to second order alone. What they give beyond is compared with extrapolated
central differences of the order before, h⁽ʲ⁾(0) ≈ (h⁽ʲ⁻¹⁾(s) − h⁽ʲ⁻¹⁾(−s)) / 2s in float64, at the first use of a set
of operators; the second order is exact, so a small s resolves the third, and so on up.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, func

from alpha_func import tree
from alpha_func.transforms.strategies import Loss
from alpha_func.tree import Tree

_REACHES = (1e-3, 1e-4)  # of 1/‖d‖: steps of differences, the next where the last met a kink
_AGREE = 1e-6  # of the scale: what two families of differences of an exact derivative agree to, with room


def derivatives_along(loss: Loss, params: Tree, direction: Tree, order: int) -> tuple[Tensor, ...]:
    """h, h′, ..., h⁽ᵏ⁾ at α = 0, k = ``order``.

    >>> derivatives_along(lambda x: (x**4).sum(), torch.tensor([1.0]), torch.tensor([1.0]), 3)
    (tensor(1.), tensor(4.), tensor(12.), tensor(24.))
    """
    first = tree.leaves(params)[0]
    zero = torch.zeros((), dtype=tree.accumulator_dtype(first.real.dtype), device=first.device)

    def line(alpha: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return loss(tree.axpy(alpha, direction, params)), ()

    level: Callable[[Tensor], Any] = line
    for _ in range(order):
        level = _derivative(level)
    last, lower = level(zero)
    return (*lower, last)


def _derivative(
    level: Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]],
) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]:
    def derivative(alpha: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        slope, (value, lower) = func.grad_and_value(level, has_aux=True)(alpha)
        return slope, (*lower, value)

    return derivative


class Disagreement(NamedTuple):
    """A derivative that differences do not give: its order, its value and theirs; NaN where they do not converge."""

    order: int
    got: float
    differences: float


def against_differences(loss: Loss, params: Tree, direction: Tree, order: int) -> Disagreement | None:
    """The first derivative beyond the second that is not the one before differentiated.

    Args:
        loss: of the parameters alone, in float64.
        params, direction: in float64.
        order: the highest.
    """
    unit = 1 / (float(tree.norm(direction)) or 1.0)  # α over which θ moves by 1

    def scaled(alpha: float, upto: int) -> list[float]:
        found = derivatives_along(loss, tree.axpy(alpha * unit, direction, params), direction, upto)
        return [float(number) * unit**j for j, number in enumerate(found)]

    at = scaled(0.0, order)
    found: Disagreement | None = None
    for reach in _REACHES:
        near = {s: scaled(s, order - 1) for s in (reach, -reach, reach / 2, -reach / 2)}
        found = _first_parted(at, near, reach, unit)
        if found is None:
            return None
    return found


def _first_parted(
    at: Sequence[float], near: dict[float, list[float]], reach: float, unit: float
) -> Disagreement | None:
    for j in range(3, len(at)):
        wide, narrow = ((near[s][j - 1] - near[-s][j - 1]) / (2 * s) for s in (reach, reach / 2))
        limit = (4 * narrow - wide) / 3
        room = _AGREE * max(*(abs(x) for x in at[2 : j + 1]), abs(limit), 1e-2 * abs(at[1]), 1e-10)
        # A kink at 0 itself cancels in central differences: it is seen from one side.
        right, left = ((near[s][j - 1] - at[j - 1]) / s for s in (reach / 2, -reach / 2))
        if not (abs(limit - narrow) <= 100 * room and abs(right - left) <= 1e5 * room):  # so for a NaN
            return Disagreement(j, at[j] / unit**j, torch.nan)
        if not abs(at[j] - limit) <= room:
            return Disagreement(j, at[j] / unit**j, limit / unit**j)
    return None
