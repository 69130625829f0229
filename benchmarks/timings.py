"""The time of each way on a model: one process, all ways taking their turn in every round.

A ratio is a way's seconds over those of the eager gradient in the same round, so that what slows a whole round down
leaves it alone. Points (batches and directions) take turns within a measurement.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.problems import Problem, draw_points
from benchmarks.processes import Job, first_line, run_jobs
from benchmarks.settings import Settings
from benchmarks.trials import DTYPES, POINTS, case_of
from benchmarks.ways import UNIT, WAYS, Run

SHORTEST = 0.005  # seconds of one measurement: a tiny net's call is repeated
WARM_UP, FEWEST = 2, 5  # rounds


class Timing(NamedTuple):
    """A row of times.csv: medians over rounds, with the quartiles of the ratio to one eager gradient."""

    model: str
    way: str
    seconds: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    calls: int = 0  # in one measurement
    message: str = ""


def time_model(say: Callable[[Any], None], settings: Settings, model: str, ways: list[str]) -> None:
    """In a child: prepare the ways, then time them round by round."""
    settings.register()
    case = case_of(model, settings.small)
    problem = Problem(case, draw_points(case, POINTS), settings.device, DTYPES[settings.dtype])
    runs: dict[str, Run] = {}
    for way in ways:
        say(way)
        try:
            runs[way] = WAYS[way].prepare(problem)
            for point in problem.points:
                runs[way](point)
        except Exception as error:
            runs.pop(way)
            say(Timing(model, way, message=first_line(error)))
    once = min(measured(runs[UNIT], problem, 1, settings.device) for _ in range(5))
    calls = max(1, round(SHORTEST / once))
    seconds: dict[str, list[float]] = {way: [] for way in runs}
    begin, done = time.perf_counter(), 0
    most = WARM_UP + settings.rounds
    while done < WARM_UP + FEWEST or (done < most and time.perf_counter() - begin < settings.seconds):
        for way, run in runs.items():
            say(way)
            seconds[way].append(measured(run, problem, calls, settings.device))
        done += 1
    for way in runs:
        ratios = [a / b for a, b in zip(seconds[way], seconds[UNIT], strict=True)][WARM_UP:]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        say(Timing(model, way, statistics.median(seconds[way][WARM_UP:]), middle, low, high, done - WARM_UP, calls))


def measured(run: Run, problem: Problem, calls: int, device: str) -> float:
    """Seconds a call, its device waited for."""
    points = problem.points
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    wait()
    begin = time.perf_counter()
    for i in range(calls):
        run(points[i % len(points)])
    wait()
    return (time.perf_counter() - begin) / calls


def time_all(settings: Settings, ways_of: dict[str, list[str]]) -> Iterator[list[Timing]]:
    """The timings of each model, one model at a time; a way that kills the process is left out of a second attempt."""
    for model, ways in ways_of.items():
        lost: list[Timing] = []
        rows: list[Timing] = []
        left = list(ways)
        while UNIT in left and not rows:
            patience = settings.patience + len(left) * settings.seconds
            (ended,) = run_jobs([Job(model, time_model, (settings, model, left), patience)], 1, settings.threads)
            if not ended.how:
                rows = [message for message in ended.messages if isinstance(message, Timing)]
                break
            last = [message for message in ended.messages if isinstance(message, str)][-1:]
            left = [way for way in left if way not in last] if last else []
            lost += [Timing(model, way, message=f"while timed: {ended.how}") for way in last]
        yield rows + lost
