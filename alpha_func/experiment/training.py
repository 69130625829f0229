"""Training with α* measured along the way: θ ← θ + lr·d, where d is the optimizer's step for a learning rate of 1."""

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, func, nn

from alpha_func import tree
from alpha_func.capture import capture
from alpha_func.experiment.beyond import Beyond
from alpha_func.experiment.data import Data
from alpha_func.experiment.minibatches import Minibatch, batches, steps_of
from alpha_func.experiment.optimizers import Algorithm
from alpha_func.experiment.other_samples import OtherSamples
from alpha_func.experiment.rate import Rate, RunState
from alpha_func.experiment.settings import CAPTURED, Experiment
from alpha_func.experiment.steppers import MeasuredStep, Stateful, SteepestDescent, Stepper
from alpha_func.losses.module_loss import functional_loss
from alpha_func.observer.record import StepRecord, agreeing, divided
from alpha_func.quadratic import Quadratic, gain_ratio
from alpha_func.torch_private import norms
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


def training_loss(experiment: Experiment, data: Data, module: nn.Module) -> Callable[..., Tensor]:
    """The loss of a run, captured if its strategy says so; the optimizers of one run can share it."""
    loss, _ = functional_loss(module, data.criterion)
    return capture(loss).frozen() if experiment.strategy == CAPTURED else loss  # nothing of it changes here


class Training:
    """One optimizer's way from the module's parameters, which are not changed; ``step`` takes the step of a batch.

    With the name of a rule for ``lr`` a step is by that rule, of the quadratic along it; where the rule has none, the
    last one's length is taken again. ``loss`` is ``training_loss``'s.
    """

    def __init__(
        self, experiment: Experiment, data: Data, module: nn.Module, algorithm: Algorithm, loss: Callable[..., Tensor]
    ):
        self.algorithm = algorithm
        plain_loss, self._params = functional_loss(module, data.criterion)
        self._experiment, self._loss = experiment, loss
        self._stepper = _stepper(experiment, algorithm, loss, func.grad(plain_loss))
        self._lines = line_steps(experiment, steps_of(experiment, data))
        self._other_samples = OtherSamples(experiment, data, loss)
        self._rate = Rate(experiment, algorithm)
        self._beyond = Beyond(experiment, algorithm, loss, plain_loss)

    @property
    def state(self) -> RunState:
        """Where it stands, for ``torch.save``; a step makes new tensors and changes none of these."""
        return {
            "params": self._params,
            "optimizer": self._stepper.state,
            "rate": self._rate.state,
            "last": self._beyond.last,
        }

    @state.setter
    def state(self, state: RunState) -> None:
        self._params, self._stepper.state, self._rate.state = state["params"], state["optimizer"], state["rate"]
        self._beyond.last = state.get("last")

    def step(self, batch: Minibatch) -> Observation | None:
        """Take the step of a batch; None where it is not recorded."""
        x, y, algorithm = batch.inputs, batch.targets, self.algorithm
        observed = batch.step % self._experiment.every == 0
        if not observed and self._rate.is_fixed:
            self._beyond.stepped(self._params)
            self._params = self._stepper.advance(self._params, x, y)
            return None
        before = self._stepper.state
        params, measured = self._params, self._stepper.measure(self._params, x, y)
        after = measured.params
        if not self._rate.is_fixed:
            self._rate.choose(measured)
            after = tree.axpy(self._rate.lr / measured.unit, measured.direction, params)
        observation = None
        if observed or self._rate.asks_gain:
            loss_after = self._loss(after, x, y)
        if self._rate.asks_gain:
            self._rate.gained(measured, loss_after)
        if observed:
            lr = self._rate.lr
            others = self._other_samples(params, measured, batch.held_out, batch.step, lr)
            others |= self._beyond(params, measured, before, x, y, lr)
            record = _record(batch, algorithm, measured, others, lr, loss_after)
            line = None
            if batch.step in self._lines:
                line = _line(record, scalar_loss(self._loss, (x, y), {}), params, measured)
            observation = Observation(record, line)
        self._beyond.stepped(params)
        self._params = after
        return observation


def observe(
    experiment: Experiment,
    data: Data,
    module: nn.Module,
    algorithm: Algorithm | None = None,
    *,
    loss: Callable[..., Tensor] | None = None,
) -> Iterator[Observation]:
    """Train from the module's parameters, and yield what was observed at every ``every``-th step.

    Of several optimizers, ``algorithm`` says which; left out, it is the first. ``loss`` is ``training_loss``'s.
    """
    loss = loss or training_loss(experiment, data, module)
    training = Training(experiment, data, module, algorithm or experiment.algorithms()[0], loss)
    for batch in batches(experiment, data):
        observation = training.step(batch)
        if observation is not None:
            yield observation


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
    batch: Minibatch,
    algorithm: Algorithm,
    measured: MeasuredStep,
    others: dict[str, float],
    lr: float,
    loss_after: Tensor,
) -> StepRecord:
    leaves = norms(measured.direction.values())
    numbers = torch.stack([*measured.quadratic, measured.slope, loss_after, *leaves])
    value, slope, curvature, trained, after, *lengths = numbers.tolist()  # the device is waited for once
    steps = lr / measured.unit  # the step that is taken, in directions
    slope, trained, curvature, lengths = (
        steps * slope,
        steps * trained,
        steps * steps * curvature,
        [steps * n for n in lengths],
    )
    alpha, norm, dtype = divided(-slope, curvature), math.hypot(*lengths), leaves[0].dtype
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
        directional_sharpness=divided(curvature, norm * norm),
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
            **{f"step_norm.{name}": norm for name, norm in zip(measured.direction, lengths, strict=True)},
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


def _line(record: StepRecord, loss: Loss, params: Tree, measured: MeasuredStep) -> Line:
    """h(α) from behind θ to beyond α*, and to the learning rate unless that is out of all proportion."""
    alpha, lr = record.alpha_lr, record.lr
    reach = abs(alpha) if math.isfinite(alpha) and alpha else lr
    end = max(2.2 * reach, min(1.2 * lr, 6 * reach))
    end = min(end, measured.unit * torch.finfo(measured.quadratic.value.dtype).max)
    alphas = torch.linspace(-end if alpha < 0 else -0.25 * end, end, POINTS, dtype=torch.float64)
    at = (tree.axpy(a / measured.unit, measured.direction, params) for a in alphas.tolist())
    losses = torch.stack([loss(point).double() for point in at])
    return Line(record.more["optimizer"], record.step, alphas, losses, measured.per_learning_rate(), lr)


def plain_step_seconds(
    experiment: Experiment, data: Data, module: nn.Module, algorithm: Algorithm, *, steps: int = 300
) -> list[float]:
    """What the processor took for each step of the same training unobserved: module, criterion, backward, torch.optim.

    As many as asked for, and no more than fit in a second. The module is trained: pass a fresh one.
    """
    optimizers = algorithm.optimizers(module)
    seconds: list[float] = []
    for batch in islice(batches(experiment, data), steps):
        started = time.thread_time()
        for optimizer in optimizers:
            optimizer.zero_grad()
        data.criterion(module(batch.inputs), batch.targets).backward()
        for optimizer in optimizers:
            optimizer.step()
        seconds.append(time.thread_time() - started)
        if sum(seconds) > 1:
            break
    return seconds
