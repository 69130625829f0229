"""A way tried on a model, in a child: is it right, in float32 and in float64, and what does it hold in memory.

The outcome is ``exact``: slope and curvature right to rounding; ``WRONG``: an answer, and not the right one;
``inexact``: a difference quotient; or ``raises``, ``crashes``, ``timeout``, ``absent``, ``skipped``.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.memory import peak_bytes
from benchmarks.models import MODELS
from benchmarks.problems import Case, Problem, draw_points, truths
from benchmarks.processes import Ended, Job, first_line, run_jobs
from benchmarks.settings import Settings
from benchmarks.ways import WAYS

ANSWERS = ("exact", "WRONG", "inexact")
POINTS = 3  # batches, each with its direction, that take turns
DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Of ‖d‖‖g‖ and ‖d‖‖Hd‖. Far above rounding (a net of 48 layers in float32), far below every error known to be one.
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


class Trial(NamedTuple):
    """A row of trials.csv; errors are relative to the reference, the largest of the points."""

    model: str
    way: str
    dtype: str
    outcome: str
    slope_error: float | None = None
    curvature_error: float | None = None
    first_call: float | None = None  # seconds: preparing, tracing, compiling, and one answer
    peak_bytes: int | None = None
    message: str = ""


def case_of(model: str, small: bool) -> Case:
    """A model's case, always the same one."""
    torch.manual_seed(0)
    return MODELS[model].make(small)


def parameters_of(model: str, small: bool) -> int:
    """How many."""
    return sum(p.numel() for p in case_of(model, small).module.parameters())


def attempt(say: Callable[[Any], None], settings: Settings, model: str, way: str) -> None:
    """In a child: a trial for each dtype."""
    settings.register()
    case = case_of(model, settings.small)
    points = draw_points(case, POINTS)
    expected = truths(case, points, descent=WAYS[way].descends)
    for dtype in settings.dtypes:
        say(dtype)
        if WAYS[way].slow and dtype != settings.dtype and model != next(iter(MODELS)):
            say(Trial(model, way, dtype, "skipped", message="compiled for minutes: on the first model only"))
            continue
        say(tried(Problem(case, points, settings.device, DTYPES[dtype]), model, way, settings.device, dtype, expected))


def tried(problem: Problem, model: str, way: str, device: str, dtype: str, expected: list[Any]) -> Trial:
    """The trial of one dtype."""
    begin = time.perf_counter()
    try:
        run = WAYS[way].prepare(problem)
        run(problem.points[0])
        first_call = time.perf_counter() - begin
        found = [run(point) for point in problem.points]
        of_program = getattr(run, "peak_bytes", None)  # XLA's
        point = problem.points[0]
        peak = of_program(point) if of_program else peak_bytes(lambda: run(point), device)
    except Exception as error:
        return Trial(model, way, dtype, "raises", message=first_line(error))
    outcome, slope_error, curvature_error = judged(found, expected, dtype, WAYS[way].exact)
    return Trial(model, way, dtype, outcome, slope_error, curvature_error, first_call, peak)


def judged(found: list[Any], expected: list[Any], dtype: str, exact: bool) -> tuple[str, float | None, float | None]:
    """The outcome, and the largest relative errors of slope and curvature."""
    errors: list[list[float]] = [[], []]
    wrong = False
    for numbers, truth in zip(found, expected, strict=True):
        for i, (got, true, scale) in enumerate(zip(numbers, truth[:2], truth[2:], strict=True)):
            if got is not None:
                error = abs(float(got) - true)
                errors[i].append(error / abs(true))
                wrong = wrong or not error <= TOLERANCE[dtype] * scale  # NaN is wrong
    largest = [max(part, default=None) for part in errors]
    return ("inexact" if not exact else "WRONG" if wrong else "exact"), largest[0], largest[1]


def try_all(settings: Settings, pairs: list[tuple[str, str]]) -> Iterator[list[Trial]]:
    """Each (model, way) in a child; yields its trials."""
    jobs = []
    for model, way in pairs:
        reason = why_not(model, way, settings)
        if reason:
            yield [Trial(model, way, dtype, reason[0], message=reason[1]) for dtype in settings.dtypes]
        else:
            jobs.append(Job((model, way), attempt, (settings, model, way), settings.patience))
    for ended in run_jobs(jobs, settings.workers, 1):
        yield with_fate(ended, settings.dtypes)


def why_not(model: str, way: str, settings: Settings) -> tuple[str, str] | None:
    """The outcome of a way that is not even tried, and why."""
    listed = WAYS[way]
    if listed.missing:
        return "absent", f"{listed.module} is not installed: pip install 'alpha-func[peers]'"
    if listed.module == "jax" and settings.device != "cpu":
        return "skipped", "JAX is compared on the CPU"
    if listed.largest and parameters_of(model, settings.small) > listed.largest:
        return "skipped", f"more than {listed.largest} parameters"
    return None


def with_fate(ended: Ended, dtypes: list[str]) -> list[Trial]:
    """The trials a child has sent, and what became of the one that it did not finish."""
    model, way = ended.job.name
    done = {message.dtype: message for message in ended.messages if isinstance(message, Trial)}
    begun = [message for message in ended.messages if isinstance(message, str)]
    outcome, _, how = ended.how.partition(": ")
    rows = []
    for dtype in dtypes:
        if dtype in done:
            rows.append(done[dtype])
        elif dtype in begun or not begun:
            rows.append(Trial(model, way, dtype, outcome or "crashes", message=how or "ended without an answer"))
        else:
            rows.append(Trial(model, way, dtype, "skipped", message=f"{begun[-1]} {outcome}"))
    return rows
