"""What is said of a number, and of one way on one program.

exact       every number is the reference's
fallback    the sweep is not proven, and the independent route gives the reference's numbers (strict mode tells)
refused     an error of the library's own, raised for the caller
internal    any other error
wrong       a number that is not the derivative
inherited   PyTorch's own wrong number, where its double backward is wrong
nan         not finite, nor is PyTorch's double backward, or the strategy of torch.func that does the same, in the
            program's dtypes; the derivative is
kink        another number than double backward's where there is no second derivative
"""

import math
from enum import StrEnum
from typing import NamedTuple

from torch import Tensor

from tests.verification.fuzzing.derivatives import largest
from tests.verification.fuzzing.references import Kind, Truth


class Verdict(StrEnum):
    """As the module says."""

    EXACT = "exact"
    FALLBACK = "fallback"
    REFUSED = "refused"
    INTERNAL = "internal"
    WRONG = "wrong"
    INHERITED = "inherited"
    NAN = "nan"
    KINK = "kink"


FAILURES = (Verdict.WRONG, Verdict.INTERNAL)
THE_VOTES = "reverse_over_reverse"  # strategy
WORST_FIRST = (Verdict.WRONG, Verdict.INHERITED, Verdict.NAN, Verdict.KINK)  # of numbers


class Outcome(NamedTuple):
    """A verdict, and what was off or said."""

    verdict: Verdict
    detail: str


def compared(truth: Truth, name: str, got: Tensor, strategy: str = THE_VOTES) -> list[Outcome]:
    """A number, such as a strategy of torch.func gives, against the truth: nothing where it is the same, or nobody
    knows."""
    number = truth.numbers.get(name)
    if number is None:
        return []
    error, tolerance = largest(got - number.is_), truth.tolerance(name)
    if error <= tolerance:
        return []
    rounding = truth.rounding(name)
    if error <= rounding < math.inf:
        return []
    if got.ndim:
        said = f"{name} (largest error {error:.3g}) expected largest {largest(number.is_):.3g}"
    else:
        said = f"{name} {float(got):.12g} expected {float(number.is_):.12g}"
    if truth.kind is Kind.KINK or (rounding == math.inf and math.isfinite(error)):
        return [Outcome(Verdict.KINK, said)]
    if not math.isfinite(error) and not (truth.is_finite and truth.is_finite_by(strategy)):
        return [Outcome(Verdict.NAN, said)]
    inherited = number.by_pytorch is not None and largest(got - number.by_pytorch) <= tolerance
    return [Outcome(Verdict.INHERITED if inherited else Verdict.WRONG, said)]
