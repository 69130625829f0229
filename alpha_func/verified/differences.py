"""Slope and curvature of a function of one number, by extrapolated central differences.

    h′(0) ≈ (h(s) − h(−s)) / 2s        h″(0) ≈ (h(s) − 2h(0) + h(−s)) / s²

for a family of shrinking steps s, extrapolated to s = 0 (Ridders, 1982): their errors are even in s. Two families of
steps that disagree have a kink between them, or a value that is not finite.
"""

from collections.abc import Callable
from typing import NamedTuple

_RATIO = 1.5
_STEPS = 7
_AGREE = 2.5e-7  # of the scale: what differences in float64 resolve of a second derivative


class Differences(NamedTuple):
    """h(0), h′(0), h″(0), the scale that errors of h″ are measured against, and whether h is smooth nearby."""

    value: float
    slope: float
    curvature: float
    scale: float
    smooth: bool


def differences(h: Callable[[float], float], unit: float, reaches: tuple[float, ...] = (0.05, 0.004)) -> Differences:
    """The derivatives of h at 0.

    Args:
        h: a function in float64.
        unit: the distance over which h changes, such as 1/‖d‖ for h(α) = L(θ + αd).
        reaches: the first step of the families to try, in units; the next only where the last met a kink.

    >>> import math
    >>> found = differences(math.exp, 1.0)
    >>> round(found.slope, 6), round(found.curvature, 6), found.smooth
    (1.0, 1.0, True)
    >>> differences(abs, 1.0).smooth, differences(lambda x: math.frexp(x)[0], 1.0).smooth
    (False, False)
    """
    value = h(0.0)
    for reach in reaches:
        slope, curvature = _family(h, value, unit * reach)
        other_slope, other_curvature = _family(h, value, unit * reach * 0.63)
        scale = max(abs(slope) * unit, abs(curvature) * unit**2, abs(value) * 1e-2, 1e-8)
        errors = (abs(slope - other_slope) * unit, abs(curvature - other_curvature) * unit**2)
        smooth = all(error <= _AGREE * scale for error in errors)  # not so for a NaN
        if smooth:
            break
    if smooth:
        # The curvature of a kink at 0 itself, ∞, cancels in neither family, nor do those of a jump.
        smooth = not _breaks(h, value, unit * reach * 1e-3, scale, scale / unit)
    return Differences(value, slope, curvature, scale / unit**2, smooth)


def _family(h: Callable[[float], float], value: float, first: float) -> tuple[float, float]:
    steps = [first / _RATIO**k for k in range(_STEPS)]
    sides = [(h(s), h(-s)) for s in steps]
    slopes = [(up - down) / (2 * s) for s, (up, down) in zip(steps, sides, strict=True)]
    curvatures = [(up - 2 * value + down) / s**2 for s, (up, down) in zip(steps, sides, strict=True)]
    return _extrapolated(slopes), _extrapolated(curvatures)


def _breaks(h: Callable[[float], float], value: float, step: float, scale: float, slope_scale: float) -> bool:
    up, down = h(step) - value, h(-step) - value
    kinks = abs(up + down) > 0.1 * slope_scale * step
    near = h(step / 100) - value, h(-step / 100) - value
    return kinks or any(abs(x) > 0.5 * abs(y) + 1e-11 * scale for x, y in zip(near, (up, down), strict=True))


def _extrapolated(estimates: list[float]) -> float:
    """The entry of Neville's tableau that changes least."""
    best, change, previous = estimates[-1], float("inf"), estimates[:1]
    for estimate in estimates[1:]:
        row = [estimate]
        for order, older in enumerate(previous):
            factor = _RATIO ** (2 * (order + 1))
            row.append((factor * row[order] - older) / (factor - 1))
            moved = max(abs(row[-1] - row[-2]), abs(row[-1] - older))
            if moved < change:
                best, change = row[-1], moved
        previous = row
    return best
