"""The third voter: where a scheme and PyTorch part, differences of the program's values decide, in float64.

the slope and the curvature that each claims along d, and where gradients part, the slopes that each claims along
their difference, against extrapolated central differences of h(α) = L(θ + αd)
"""

from collections.abc import Sequence
from enum import Enum, auto

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.capture.running.evidence import GRADIENT, Numbers, Witness
from alpha_func.capture.running.points import Point
from alpha_func.verified.differences import Differences

_RESOLVED = 1e-6  # what extrapolated differences resolve of a second derivative in float64


class Side(Enum):
    """With whom the differences agree; undecided at a kink, or where the two are nearer than differences resolve."""

    SCHEME = auto()
    PYTORCH = auto()
    NEITHER = auto()
    UNDECIDED = auto()


def vote(witness: Witness, point: Point, got: Numbers, expected: Numbers) -> Side:
    """Which of the two is the derivative.

    Args:
        witness: of the call, in float64.
        point: where.
        got: what the scheme gives.
        expected: what PyTorch does.
    """
    try:
        verdicts = [_agrees(witness, point, numbers, (got, expected)) for numbers in (got, expected)]
    except Exception:  # values that the loss refuses
        return Side.UNDECIDED
    if None in verdicts:
        return Side.UNDECIDED
    ours, theirs = verdicts
    if ours:
        return Side.UNDECIDED if theirs else Side.SCHEME
    return Side.PYTORCH if theirs else Side.NEITHER


def _agrees(witness: Witness, point: Point, claim: Numbers, both: tuple[Numbers, Numbers]) -> bool | None:
    """Whether differences give what is claimed; None where they do not converge."""
    lines: list[tuple[Sequence[Tensor], dict[str, Tensor]]] = []
    grads, others = ([x[GRADIENT.format(n)] for n in witness.names if GRADIENT.format(n) in x] for x in both)
    own = [claim[GRADIENT.format(n)] for n in witness.names if GRADIENT.format(n) in claim]
    if grads and others:
        apart = [torch.nan_to_num(x - y) for x, y in zip(grads, others, strict=True)]
        if any(part.any() for part in apart):
            lines.append((apart, {"slope": tree.vdot(apart, own)}))
    along = point.direction or ([-g for g in own] if own else None)
    claimed: dict[str, Tensor] = {name: claim[name] for name in ("value", "slope", "curvature") if name in claim}
    if along is not None and "slope" in claimed:
        lines.append((along, claimed))
    agrees = True
    for d, numbers in lines:
        found = witness.line(point, d)
        if not found.smooth:
            return None
        agrees &= _given(found, float(tree.norm(list(d))) or 1.0, numbers)
    return agrees if lines else None


def _given(found: Differences, length: float, numbers: dict[str, Tensor]) -> bool:
    tolerances = {
        "value": _RESOLVED * abs(found.value) + 1e-12,
        "slope": _RESOLVED * found.scale / length,
        "curvature": _RESOLVED * found.scale,
    }
    return all(abs(float(x) - float(getattr(found, name))) <= tolerances[name] for name, x in numbers.items())
