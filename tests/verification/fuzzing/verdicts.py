"""What is said of one way on one program.

exact       every number is the reference's
fallback    the sweep is not proven, and the independent route gives the reference's numbers (strict mode tells)
refused     an error of the library's own, raised for the caller
internal    any other error
wrong       a number that is not the derivative
inherited   PyTorch's own wrong number, where its double backward is wrong
nan         not finite, nor is PyTorch's double backward in the program's dtypes; the derivative is
kink        another number than double backward's where there is no second derivative
"""

import re
import traceback
import warnings
from enum import StrEnum
from typing import NamedTuple

from alpha_func.errors import CaptureError, StrategyError
from tests.verification.fuzzing.references import Kind
from tests.verification.fuzzing.trials import Trial
from tests.verification.fuzzing.ways import Way

_SAID = 200  # characters of an error


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


class Outcome(NamedTuple):
    """A verdict, and what was off or said."""

    verdict: Verdict
    detail: str


def judged(trial: Trial, way: Way) -> Outcome:
    """The verdict on a way; where a strict trial fails, on what a caller who is not strict would get."""
    outcome = _judged(trial, way)
    if not trial.strict or outcome.verdict in (Verdict.EXACT, Verdict.KINK):
        return outcome
    relaxed = _judged(trial.relaxed(), way)
    if relaxed.verdict is Verdict.EXACT:
        return Outcome(Verdict.FALLBACK, outcome.detail)
    return relaxed


def pattern(detail: str) -> str:
    """A detail without its numbers, to tell kinds apart."""
    said = re.sub(r"\bf?[vpa]\d+\b", "x", detail.split(" @ ")[0])
    return re.sub(r"0x\w+|[-\d.]+e?[-\d]*|\[[^]]*\]", "#", said)[:110]


def _judged(trial: Trial, way: Way) -> Outcome:
    try:
        with trial.program.defaults(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            off = way.off(trial) + trial.inputs_changed()
    except Exception as error:
        return _error(error)
    if not off:
        return Outcome(Verdict.EXACT, "")
    detail = "; ".join(off)
    if trial.reference.kind is Kind.KINK:
        return Outcome(Verdict.KINK, detail)
    if re.search(r"\b(nan|inf)\b", off[0]) and not trial.reference.is_finite:
        return Outcome(Verdict.NAN, detail)
    return Outcome(Verdict.INHERITED if _is_pytorchs(trial, off) else Verdict.WRONG, detail)


def _error(error: Exception) -> Outcome:
    said = f"{type(error).__name__}: {str(error)[:_SAID]}"
    if isinstance(error, (CaptureError, StrategyError)):
        return Outcome(Verdict.REFUSED, said)
    stack = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in stack if "/alpha_func/" in frame.filename]
    for_the_caller = ours and ours[-1] is stack[-1] and (ours[-1].line or "").startswith("raise")
    if isinstance(error, (TypeError, ValueError)) and for_the_caller:
        return Outcome(Verdict.REFUSED, said)
    place = f"{ours[-1].filename.rpartition('/alpha_func/')[2]}:{ours[-1].lineno}" if ours else "?"
    return Outcome(Verdict.INTERNAL, f"{said} @ {place}")


def _is_pytorchs(trial: Trial, off: list[str]) -> bool:
    """Whether every number that is off is the one that PyTorch's double backward gives."""
    theirs = trial.reference.by_pytorch
    if theirs is None:
        return False

    def is_theirs(message: str) -> bool:
        number = message.split()[1]
        if number.startswith("("):
            return True
        return any(abs(float(number) - own) <= 1e-5 * trial.reference.scale for own in theirs)

    return all(map(is_theirs, off))
