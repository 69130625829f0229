"""Training with α* measured along the way: θ ← θ + lr·d, where d is the optimizer's step for a learning rate of 1."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, func, nn

from alpha_func import tree
from alpha_func.capture import capture
from alpha_func.experiment.data import Data
from alpha_func.experiment.optimizers import Algorithm
from alpha_func.experiment.other_samples import Elsewhere
from alpha_func.experiment.settings import CAPTURED, Experiment
from alpha_func.experiment.steppers import Measured, Stateful, SteepestDescent, Stepper
from alpha_func.losses.module_loss import functional_loss
from alpha_func.observer.record import StepRecord, agreeing, divided, gain_ratio
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.directions import DirectionFunction
from alpha_func.transforms.strategies import Loss, Step
from alpha_func.transforms.validation import scalar_loss
from alpha_func.transforms.verbs import grad_and_quadratic
from alpha_func.tree import Tree

LINES = 6  # how many steps keep their whole line h(α)
POINTS = 81


class Line(NamedTuple):
    """The true loss h(α) of a step's mini-batch along d, sampled, beside its quadratic."""

    optimizer: str
    step: int
    alphas: Tensor
    losses: Tensor
    quadratic: Quadratic
    lr: float


class Observation(NamedTuple):
    """A record, and at a handful of steps the line it was taken from.

    What the record has ``more``: its epoch and batch, from 0, the optimizer's label, the norm of the step for each
    parameter, and the step's quadratic on other samples, where that was asked for.
    """

    record: StepRecord
    line: Line | None


class Batch(NamedTuple):
    """Where a mini-batch stands in the run, its samples, and the next mini-batch of its epoch, or the first."""

    epoch: int
    batch: int
    step: int
    inputs: Tensor
    targets: Tensor
    held_out: tuple[Tensor, Tensor]


def batches(experiment: Experiment, data: Data) -> Iterator[Batch]:
    """The mini-batches of a run: in order, or shuffled anew every epoch from the seed.

    >>> from alpha_func.experiment.data import load
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
        pieces = list(zip(torch.split(inputs, size), torch.split(targets, size), strict=True))
        for batch, (x, y) in enumerate(pieces):
            yield Batch(epoch, batch, step, x, y, pieces[(batch + 1) % len(pieces)])
            step += 1


def steps_of(experiment: Experiment, data: Data) -> int:
    """How many steps a run takes.

    >>> from alpha_func.experiment.data import load
    >>> steps_of(Experiment(), load(Experiment()))
    3200
    """
    return experiment.epochs * math.ceil(len(data.inputs) / experiment.batch_size)


def training_loss(experiment: Experiment, data: Data, module: nn.Module) -> Callable[..., Tensor]:
    """The loss of a run, captured if its strategy says so; the optimizers of one run can share it."""
    loss, _ = functional_loss(module, data.criterion)
    return capture(loss) if experiment.strategy == CAPTURED else loss


def observe(
    experiment: Experiment,
    data: Data,
    module: nn.Module,
    algorithm: Algorithm | None = None,
    *,
    loss: Callable[..., Tensor] | None = None,
) -> Iterator[Observation]:
    """Train from the module's parameters (it is not changed), and yield what was observed at every ``every``-th step.

    With ``lr=None`` a step is factor·α*. Where the curvature is not positive α* is no minimum, and the last learning
    rate that led to one is used. Of several optimizers, ``algorithm`` says which; left out, it is the first. ``loss``
    is ``training_loss``'s.
    """
    algorithm = algorithm or experiment.algorithms()[0]
    loss = loss or training_loss(experiment, data, module)
    plain_loss, params = functional_loss(module, data.criterion)
    stepper = _stepper(experiment, algorithm, loss, func.grad(plain_loss))
    lines = line_steps(experiment, steps_of(experiment, data))
    elsewhere = Elsewhere(experiment, data, loss)
    lr = algorithm.nominal_lr
    for batch in batches(experiment, data):
        x, y = batch.inputs, batch.targets
        observed = batch.step % experiment.every == 0
        if not observed and algorithm.lr is not None:
            params = stepper.advance(params, x, y)
            continue
        measured = stepper.measure(params, x, y)
        after = measured.params
        if algorithm.lr is None:
            alpha = measured.unit * measured.quadratic.alpha.item()
            if measured.quadratic.is_minimum and math.isfinite(alpha):
                lr = experiment.factor * alpha
            after = tree.axpy(lr / measured.unit, measured.direction, params)
        if observed:
            others = elsewhere(params, measured, batch.held_out, batch.step, lr)
            record = _record(batch, algorithm, measured, others, lr, loss(after, x, y))
            line = None
            if batch.step in lines:
                on_batch = scalar_loss(loss, (x, y), {})
                line = _line(record, on_batch, params, measured)
            yield Observation(record, line)
        params = after


def _stepper(
    experiment: Experiment, algorithm: Algorithm, loss: Callable[..., Tensor], gradient: Callable[..., Tree]
) -> Stepper:
    strategy = None if experiment.strategy == CAPTURED else experiment.strategy

    def measured(direction: DirectionFunction) -> Callable[..., Step]:
        return grad_and_quadratic(loss, direction, strategy=strategy)

    lr = algorithm.nominal_lr
    if algorithm.is_steepest_descent:
        return SteepestDescent(lr, gradient, measured)
    return Stateful(lr, algorithm.direction(), gradient, measured)


def _record(
    batch: Batch, algorithm: Algorithm, measured: Measured, others: dict[str, float], lr: float, loss_after: Tensor
) -> StepRecord:
    leaves = torch._foreach_norm(list(measured.direction.values()))
    numbers = torch.stack([*measured.quadratic, measured.slope, loss_after, *leaves])
    value, slope, curvature, trained, after, *norms = numbers.tolist()  # the device is waited for once
    steps = lr / measured.unit  # the step that is taken, in directions
    slope, trained, curvature, norms = steps * slope, steps * trained, steps**2 * curvature, [steps * n for n in norms]
    alpha, norm, dtype = divided(-slope, curvature), math.hypot(*norms), leaves[0].dtype
    agrees = agreeing(trained, slope, scale=abs(divided(trained, measured.cosine)), dtype=dtype)
    return StepRecord(
        step=batch.step,
        loss=value,
        slope=slope,
        curvature=curvature,
        alpha_steps=alpha,
        alpha_lr=alpha * lr,
        lr=lr,
        loss_after=after,
        gain_ratio=gain_ratio(value, slope, curvature, after, eps=torch.finfo(dtype).eps),
        step_norm=norm,
        directional_sharpness=divided(curvature, norm**2),
        cosine=measured.cosine,
        weight_decay_share=measured.weight_decay_share,
        trained_loss=value,
        trained_slope=trained,
        gradient_factor=1.0,
        agrees=agrees,
        more={
            "epoch": batch.epoch,
            "batch": batch.batch,
            "optimizer": algorithm.label,
            **{f"step_norm.{name}": norm for name, norm in zip(measured.direction, norms, strict=True)},
            **others,
        },
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


def _line(record: StepRecord, loss: Loss, params: Tree, measured: Measured) -> Line:
    """h(α) from behind θ to beyond α*, and to the learning rate unless that is out of all proportion."""
    alpha, lr = record.alpha_lr, record.lr
    reach = abs(alpha) if math.isfinite(alpha) and alpha else lr
    end = max(2.2 * reach, min(1.2 * lr, 6 * reach))
    alphas = torch.linspace(-end if alpha < 0 else -0.25 * end, end, POINTS, dtype=torch.float64)
    at = (tree.axpy(a / measured.unit, measured.direction, params) for a in alphas.tolist())
    losses = torch.stack([loss(point).double() for point in at])
    return Line(record.more["optimizer"], record.step, alphas, losses, measured.per_learning_rate(), lr)


def plain_step_seconds(
    experiment: Experiment, data: Data, module: nn.Module, algorithm: Algorithm, *, limit: int = 300
) -> float:
    """The median time of a step of the same training unobserved: module, criterion, backward, torch.optim.

    The module is trained: pass a fresh one.
    """
    optimizers = algorithm.optimizers(module)
    seconds = []
    for batch in islice(batches(experiment, data), limit):
        started = time.perf_counter()
        for optimizer in optimizers:
            optimizer.zero_grad()
        data.criterion(module(batch.inputs), batch.targets).backward()
        for optimizer in optimizers:
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def median(numbers: Sequence[float]) -> float:
    """The middle of the numbers that are not NaN; NaN where there are none.

    >>> median([3.0, 1.0, math.nan, 2.0])
    2.0
    """
    return torch.tensor(numbers, dtype=torch.float64).nanmedian().item() if numbers else math.nan
