"""α* of every way against α* from the dense Hessian, over the points of a training run of the first experiment's net.

The points are drawn from runs of plain SGD, each from its own initialisation, at every step a batch of its own:
parameters anywhere between random and fitted. d = −g. The dense Hessian is made in float64, one double backward a row.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.problems import Case, Point, Problem, gradient
from benchmarks.processes import Job, first_line, run_jobs
from benchmarks.settings import Settings
from benchmarks.trials import DTYPES, case_of
from benchmarks.ways import WAYS

MODEL, RUN, LEARNING_RATE = "10-5-1", 100, 0.05
TRUTH = "dense Hessian"


class Alphas(NamedTuple):
    """A row of alphas.csv: the largest relative error of α*, and where."""

    way: str
    dtype: str
    points: int = 0
    largest: float | None = None
    median: float | None = None
    message: str = ""


def training_points(count: int) -> tuple[Case, list[Point]]:
    """Points of SGD on a noisy linear target, a new run every 100 steps; float32."""
    torch.manual_seed(0)
    points: list[Point] = []
    case = case_of(MODEL, small=False)
    weights = torch.randn(10, 1)
    while len(points) < count:
        for layer in case.module.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
        for _ in range(min(RUN, count - len(points))):
            inputs, noise = case.draw()
            batch = inputs, torch.sin(inputs @ weights) + 0.1 * noise
            grads = torch.autograd.grad(case.criterion(case.module(batch[0]), batch[1]), list(case.module.parameters()))
            named = dict(case.module.named_parameters())
            params = {name: p.detach().clone() for name, p in named.items()}
            points.append(Point(params, batch, {name: -g for name, g in zip(named, grads, strict=True)}))
            with torch.no_grad():
                for p, g in zip(named.values(), grads, strict=True):
                    p -= LEARNING_RATE * g
    return case, points


def dense_alphas(case: Case, points: list[Point], *, descent: bool) -> list[float]:
    """α* = −dᵀg / dᵀHd with H formed; with ``descent`` along the unrounded −g, for ways that take no direction."""
    problem = Problem(case, points, "cpu", torch.float64)
    parameters = list(problem.named.values())
    found = []
    for point in problem.points:
        g = torch.cat([part.flatten() for part in gradient(problem, point, graph=True)])
        rows = [torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True) for entry in g]
        hessian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        d = -g.detach() if descent else torch.cat([part.flatten() for part in point.direction.values()])
        found.append(float(-(d @ g.detach()) / (d @ hessian @ d)))
    return found


def write_truth(say: Callable[[Any], None], settings: Settings, path: Path) -> None:
    """In a child: the points and the dense Hessian's α* at each, to a file."""
    case, points = training_points(settings.points)
    plain = [(p.params, p.batch, p.direction) for p in points]
    truth = {descent: dense_alphas(case, points, descent=descent) for descent in (False, True)}
    torch.save({"points": plain, "alphas": truth}, path)
    say("done")


def compare(say: Callable[[Any], None], settings: Settings, way: str, path: Path) -> None:
    """In a child: one way at all points, in float64 and float32."""
    settings.register()
    saved = torch.load(path, weights_only=True)
    case = case_of(MODEL, small=False)
    points = [Point(*parts) for parts in saved["points"]]
    for dtype in settings.dtypes:
        say(dtype)
        problem = Problem(case, points, settings.device, DTYPES[dtype])
        try:
            run = WAYS[way].prepare(problem)
            alphas = [alpha(run, problem, point) for point in problem.points]
        except Exception as error:
            say(Alphas(way, dtype, message=first_line(error)))
            continue
        errors = sorted(abs(a - b) / abs(b) for a, b in zip(alphas, saved["alphas"][WAYS[way].descends], strict=True))
        largest = math.nan if any(math.isnan(e) for e in errors) else errors[-1]
        say(Alphas(way, dtype, len(errors), largest, errors[len(errors) // 2]))


def alpha(run: Any, problem: Problem, point: Point) -> float:
    """α* by a way; one that gives no slope has it from an eager gradient."""
    slope, curvature = run(point)
    if slope is None:
        d = point.direction.values()
        slope = sum(float((a * g).sum()) for a, g in zip(d, gradient(problem, point), strict=True))
    return -float(slope) / float(curvature)


def compare_all(settings: Settings, ways: list[str], path: Path) -> Iterator[list[Alphas]]:
    """Each way in a child; yields its rows."""
    if not path.exists():
        (ended,) = run_jobs([Job("", write_truth, (settings, path), settings.patience)], 1, 1)
        if ended.how:
            raise RuntimeError(f"the dense Hessians: {ended.how}")
    jobs = [Job(way, compare, (settings, way, path), settings.patience) for way in ways]
    for ended in run_jobs(jobs, settings.workers, 1):
        rows = [message for message in ended.messages if isinstance(message, Alphas)]
        done = {row.dtype for row in rows}
        yield rows + [Alphas(ended.job.name, d, message=ended.how) for d in settings.dtypes if d not in done]
