"""What was measured against what was trained: the loop's own gradient tells whether both are one loss.

d is the step, .grad the gradient that the optimizer was given, g_i and s_i = dᵀg_i gradient and slope of the i-th batch
of the step, as they were measured. The loss that was trained is Σ w_i L_i, so that

    dᵀ.grad = Σ w_i s_i          .grad = Σ w_i g_i

with the weights that the loop gives its batches: 1/n where it averages them, 1 where it sums them; all times one factor
where it clips the gradient. The first equation costs an inner product and is looked at in every record. Where it does
not hold, the second is solved for the weights, by least squares; where no weights fit, another loss was trained.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.observer.record import ROUNDING, agreeing

Grads = Mapping[str, Tensor]
_OF_GRADIENTS = 10  # how many times the rounding of a slope the difference of two gradients may be, over their norm


class Trained(NamedTuple):
    """How the loop made a step's gradient of the measured ones.

    Attributes:
        weights: of the batches, clipping apart: those of the record.
        factor: what the gradient was multiplied with besides; NaN where that is not a single number.
        agrees: whether the measured loss is the one that was trained; None where nothing tells.
        how: what was found beside that, in words; empty where nothing was.
    """

    weights: list[float]
    factor: float
    agrees: bool | None
    how: str = ""


def mean(count: int) -> list[float]:
    """The weights of a mean."""
    return [1 / count] * count


def by_slope(
    slopes: Sequence[float],
    trained: float,
    *,
    candidates: Sequence[list[float]],
    scale: float,
    dtype: torch.dtype,
) -> Trained | None:
    """The first of the candidates whose slope is the trained one; None where none is.

    >>> by_slope([-1.0, -2.0], -3.0, candidates=[mean(2), [1.0, 1.0]], scale=3.0, dtype=torch.float32).weights
    [1.0, 1.0]
    """
    for weights in candidates:
        slope = sum(w * s for w, s in zip(weights, slopes, strict=True))
        if agreeing(trained, slope, scale=scale, dtype=dtype):
            return Trained(weights, 1.0, True)
    return None


def by_gradient(given: Grads, measured: Sequence[Grads], *, dtype: torch.dtype) -> Trained:
    """The weights that make the given gradient of the measured ones; none fit: it is of another loss."""
    weights, left = _fitted(given, measured)
    bound = _OF_GRADIENTS * ROUNDING[dtype]
    if left <= bound:
        return _normalised(weights, bound)
    sum_ = _combined(measured, weights if len(measured) > 1 else [1.0])
    if len(measured) == 1 and (limit := _clamped_at(given, sum_, bound)) is not None:
        how = f"the values of the gradient were clipped at {limit:.3g}"
        return Trained([1.0], float("nan"), True, how)
    factors = _own_factors(given, sum_, bound)
    if factors is not None:
        low, high = min(factors), max(factors)
        how = f"the gradient of each parameter was multiplied by a factor of its own, from {low:.3g} to {high:.3g}"
        return Trained(_normalised(weights, bound).weights, float("nan"), True, how)
    return Trained(mean(len(measured)), float("nan"), False)


def _fitted(given: Grads, measured: Sequence[Grads]) -> tuple[list[float], float]:
    """The least-squares weights, and the norm of what is left over that of the given gradient."""
    inner = torch.tensor([[float(tree.vdot(a, b)) for b in measured] for a in measured], dtype=torch.float64)
    right = torch.tensor([float(tree.vdot(a, given)) for a in measured], dtype=torch.float64)
    weights = torch.linalg.lstsq(inner, right[:, None], driver="gelsd").solution[:, 0].tolist()
    left = tree.norm(tree.sub(dict(given), _combined(measured, weights)))
    return weights, float(left / tree.norm(given))


def _combined(measured: Sequence[Grads], weights: Sequence[float]) -> dict[str, Tensor]:
    names = list(measured[0])
    return {name: sum(w * g[name] for w, g in zip(weights, measured, strict=True)) for name in names}  # type: ignore[misc]


def _normalised(weights: list[float], bound: float) -> Trained:
    """The weights as those of a sum or a mean, and what the gradient was multiplied with besides."""
    count, total = len(weights), sum(weights)
    used = [w for w in weights if abs(w) > bound * abs(total)]
    if max(used) - min(used) <= bound * abs(total):  # all alike: the rest was thrown away
        share = sum(used) / len(used)
        rest = [1.0 if abs(w) > bound * abs(total) else 0.0 for w in weights]
        if abs(share - 1) <= bound:
            return Trained(rest, 1.0, True)
        factor = share * count if abs(share * count - 1) <= bound else share * len(used)
        shares = count if factor == share * count else len(used)
        alike = [w / shares for w in rest]
        return with_factor(alike, factor, bound)
    return with_factor([w / total for w in weights], total, bound)


def with_factor(weights: list[float], factor: float, bound: float = 0.0) -> Trained:
    """The weights of a sum or a mean of which the gradient is a multiple."""
    if abs(factor - 1) <= bound:
        return Trained(weights, 1.0, True)
    if factor <= 0:
        return Trained(weights, float("nan"), False, "the gradient points in the opposite direction")
    kind = "clipping does" if 0 < factor < 1 else "a scaled loss does"
    return Trained(weights, factor, True, f"the whole gradient was multiplied by {factor:.4g}, as {kind}")


def _clamped_at(given: Grads, measured: Grads, bound: float) -> float | None:
    """The value that the elements of the gradient were clipped at, if that is what was done."""
    limit = max(float(g.abs().max()) for g in given.values())
    clamped = {name: g.clamp(-limit, limit) for name, g in measured.items()}
    left = float(tree.norm(tree.sub(dict(given), clamped)) / tree.norm(given))
    return limit if left <= bound else None


def _own_factors(given: Grads, measured: Grads, bound: float) -> list[float] | None:
    """The factor of each parameter's gradient, if each has one."""
    factors, left = [], 0.0
    for name, g in given.items():
        square = float(tree.vdot(measured[name], measured[name]))
        factor = float(tree.vdot(measured[name], g)) / square if square else 0.0
        left += float(tree.norm(g - factor * measured[name])) ** 2
        factors.append(factor)
    many = sum(g.numel() for g in given.values()) > 2 * len(factors)  # a scalar is any multiple of another
    return factors if many and min(factors) > 0 and left**0.5 <= bound * float(tree.norm(given)) else None
