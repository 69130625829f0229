"""Training by plain SGD with α* measured along the way: θ ← θ + lr·d, d = −g of the mini-batch."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, func, nn

from alpha_func import tree
from alpha_func.capture import capture
from alpha_func.losses import functional_loss
from alpha_func.observing.data import Data
from alpha_func.observing.experiment import CAPTURED, FIRST_LEARNING_RATE, Experiment
from alpha_func.observing.records import Record
from alpha_func.quadratic import Quadratic
from alpha_func.strategies import Loss
from alpha_func.transforms import grad_and_quadratic
from alpha_func.tree import Tree
from alpha_func.validation import scalar_loss

LINES = 6  # how many steps keep their whole line h(α)
POINTS = 81


class Line(NamedTuple):
    """The true loss h(α) of a step's mini-batch along d, sampled, beside its quadratic."""

    step: int
    alphas: Tensor
    losses: Tensor
    quadratic: Quadratic
    lr: float


class Observation(NamedTuple):
    """A record, and at a handful of steps the line it was taken from."""

    record: Record
    line: Line | None


class Batch(NamedTuple):
    """Where a mini-batch stands in the run, and its samples."""

    epoch: int
    batch: int
    step: int
    inputs: Tensor
    targets: Tensor


def batches(experiment: Experiment, data: Data) -> Iterator[Batch]:
    """The mini-batches of a run: in order, or shuffled anew every epoch from the seed.

    >>> from alpha_func.observing.data import load
    >>> experiment = Experiment(epochs=2)
    >>> sum(1 for _ in batches(experiment, load(experiment)))
    64
    """
    generator = torch.Generator().manual_seed(experiment.seed)
    step = 0
    for epoch in range(experiment.epochs):
        inputs, targets = data.inputs, data.targets
        if experiment.shuffle:
            order = torch.randperm(len(inputs), generator=generator)
            inputs, targets = inputs[order], targets[order]
        size = experiment.batch_size
        pieces = zip(torch.split(inputs, size), torch.split(targets, size), strict=True)
        for batch, (x, y) in enumerate(pieces):
            yield Batch(epoch, batch, step, x, y)
            step += 1


def steps_of(experiment: Experiment, data: Data) -> int:
    """How many steps a run takes.

    >>> from alpha_func.observing.data import load
    >>> steps_of(Experiment(), load(Experiment()))
    3200
    """
    return experiment.epochs * math.ceil(len(data.inputs) / experiment.batch_size)


def observe(experiment: Experiment, data: Data, module: nn.Module) -> Iterator[Observation]:
    """Train from the module's parameters (it is not changed), and yield what was observed at every ``every``-th step.

    With ``lr=None`` a step is factor·α*. Where the curvature is not positive α* is no minimum, and the last learning
    rate that led to one is used.
    """
    loss: Callable[..., Tensor]
    loss, params = functional_loss(module, data.criterion)
    gradient = func.grad(loss)
    if experiment.strategy == CAPTURED:
        loss = capture(loss)
        measured_step = grad_and_quadratic(loss)
    else:
        measured_step = grad_and_quadratic(loss, strategy=experiment.strategy)
    lines = line_steps(experiment, steps_of(experiment, data))
    lr = FIRST_LEARNING_RATE if experiment.lr is None else experiment.lr
    for batch in batches(experiment, data):
        x, y = batch.inputs, batch.targets
        observed = batch.step % experiment.every == 0
        if not observed and experiment.lr is not None:
            params = tree.axpy(-lr, gradient(params, x, y), params)
            continue
        _, d, quadratic = measured_step(params, x, y)
        alpha = quadratic.alpha.item()
        if experiment.lr is None and quadratic.is_minimum and math.isfinite(alpha):
            lr = experiment.factor * alpha
        after = tree.axpy(lr, d, params)
        if observed:
            record = _record(batch, quadratic, lr, d, loss(after, x, y))
            line = None
            if batch.step in lines:
                on_batch = scalar_loss(loss, (x, y), {})
                line = _line(batch.step, on_batch, params, d, quadratic, lr)
            yield Observation(record, line)
        params = after


def _record(batch: Batch, quadratic: Quadratic, lr: float, d: Tree, loss_after: Tensor) -> Record:
    value, slope, curvature = torch.stack(quadratic).tolist()
    alpha = quadratic.alpha.item()
    norms = torch.stack([leaf.norm() for leaf in tree.leaves(d)])
    return Record(
        epoch=batch.epoch,
        batch=batch.batch,
        step=batch.step,
        loss=value,
        slope=slope,
        curvature=curvature,
        alpha=alpha,
        lr=lr,
        lr_over_alpha=lr / alpha if alpha else math.nan,
        loss_after=loss_after.item(),
        direction_norm=norms.norm().item(),
        direction_norms=tuple(norms.tolist()),
    )


def line_steps(experiment: Experiment, steps: int) -> set[int]:
    """A handful of observed steps, closer together early, where training moves fastest.

    >>> sorted(line_steps(Experiment(), 3200))
    [0, 5, 25, 127, 637, 3199]
    """
    observed = range(0, steps, experiment.every)
    last = len(observed) - 1
    fractions = (k / (LINES - 1) for k in range(1, LINES))
    return {0} | {observed[min(last, round((last + 1) ** fraction))] for fraction in fractions}


def _line(step: int, loss: Loss, params: Tree, d: Tree, quadratic: Quadratic, lr: float) -> Line:
    """h(α) from behind θ to beyond α*, and to the learning rate unless that is out of all proportion."""
    alpha = quadratic.alpha.item()
    reach = abs(alpha) if math.isfinite(alpha) and alpha else lr
    end = max(2.2 * reach, min(1.2 * lr, 6 * reach))
    alphas = torch.linspace(-end if alpha < 0 else -0.25 * end, end, POINTS, dtype=torch.float64)
    losses = torch.stack([loss(tree.axpy(a, d, params)).double() for a in alphas.tolist()])
    return Line(step, alphas, losses, quadratic, lr)


def plain_step_seconds(experiment: Experiment, data: Data, module: nn.Module, *, limit: int = 300) -> float:
    """The median time of a step of the same training unobserved: module, criterion, backward, torch.optim.SGD.

    The module is trained: pass a fresh one.
    """
    optimizer = torch.optim.SGD(module.parameters(), lr=experiment.lr or FIRST_LEARNING_RATE)
    seconds = []
    for batch in islice(batches(experiment, data), limit):
        started = time.perf_counter()
        optimizer.zero_grad()
        data.criterion(module(batch.inputs), batch.targets).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def median(numbers: Sequence[float]) -> float:
    """The middle of the numbers that are not NaN; NaN where there are none.

    >>> median([3.0, 1.0, math.nan, 2.0])
    2.0
    """
    return torch.tensor(numbers, dtype=torch.float64).nanmedian().item() if numbers else math.nan
