"""A way tried on a program, and what is said of it (``outcomes``)."""

import re
import traceback
import warnings

from alpha_func.errors import CaptureError, StrategyError
from tests.verification.fuzzing.outcomes import WORST_FIRST, Outcome, Verdict
from tests.verification.fuzzing.trials import Trial
from tests.verification.fuzzing.ways import Way

_SAID = 200  # characters of an error


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
    worst = min((verdict for verdict, _ in off), key=WORST_FIRST.index)
    return Outcome(worst, "; ".join(said for verdict, said in off if verdict is worst))


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
