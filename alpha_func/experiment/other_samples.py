"""A step's direction on other samples than its own: the next mini-batch, and all of them.

On the mini-batch that a direction was made of, slope and curvature are biased: the direction points along that batch's
noise, which looks like progress there and nowhere else (``alpha_func.held_out``).
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from alpha_func.data_sets.accumulate import accumulate
from alpha_func.experiment.data import Data
from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.settings import CAPTURED, Experiment
from alpha_func.experiment.steppers import MeasuredStep
from alpha_func.observer.record import divided
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.verbs import quadratic_along
from alpha_func.tree import Tree

HELD_OUT, FULL = "held_out", "full"
NAMES = ("loss", "slope", "curvature", "alpha_steps", "alpha_lr")
_AT_ONCE = 1024  # samples, where all are measured: the memory that takes is bounded


def check_samples(experiment: Experiment, data: Data) -> None:
    """Refuse a held-out batch where the data is one batch.

    >>> from alpha_func.experiment.data import load
    >>> experiment = Experiment(batch_size=1000, holdout_batch=True)
    >>> check_samples(experiment, load(experiment))
    Traceback (most recent call last):
    InputError: holdout batch needs two batches, and the data has 1000 samples, one batch of 1000: give a --batch-size \
of at most 500
    """
    samples = len(data.inputs)
    if not experiment.holdout_batch or experiment.batch_of(samples) < samples:
        return
    remedy = f"give a --batch-size of at most {samples // 2}" if samples > 1 else "give more data"
    raise InputError(
        f"holdout batch needs two batches, and the data has {samples} sample{'s' * (samples != 1)}, one batch of "
        f"{experiment.batch_of(samples)}: {remedy}"
    )


def columns(experiment: Experiment) -> list[str]:
    """What a run records of other samples.

    >>> columns(Experiment(holdout_batch=True))
    ['held_out_loss', 'held_out_slope', 'held_out_curvature', 'held_out_alpha_steps', 'held_out_alpha_lr']
    """
    asked = {HELD_OUT: experiment.holdout_batch, FULL: experiment.full_data is not None}
    return [f"{where}_{name}" for where in asked if asked[where] for name in NAMES]


class OtherSamples:
    """Measures a step where an experiment asks for it: the values of ``columns``."""

    def __init__(self, experiment: Experiment, data: Data, loss: Callable[..., Tensor]):
        strategy = None if experiment.strategy == CAPTURED else experiment.strategy
        self._experiment, self._data = experiment, data
        self._on_batch = quadratic_along(loss, strategy=strategy)
        self._on_all = accumulate(loss, strategy=strategy, weight=lambda x, y: len(x))  # both losses are means
        self._columns = columns(experiment)

    def __call__(
        self, params: Tree, measured: MeasuredStep, held_out: tuple[Tensor, Tensor], step: int, lr: float
    ) -> dict[str, float]:
        """The step at params, on the held-out batch and on all samples; NaN at steps that are not measured on all."""
        found: list[float] = []
        steps = lr / measured.unit
        if self._experiment.holdout_batch:
            found += _row(self._on_batch(params, measured.direction, *held_out), steps, lr)
        if self._experiment.measures_all(step):
            parts = (torch.split(samples, _AT_ONCE) for samples in (self._data.inputs, self._data.targets))
            found += _row(self._of_all(params, measured.direction, zip(*parts, strict=True)), steps, lr)
        elif self._experiment.full_data is not None:
            found += [math.nan] * len(NAMES)
        return dict(zip(self._columns, found, strict=True))

    def _of_all(self, params: Tree, direction: Tree, batches: Iterable[tuple[Tensor, Tensor]]) -> Quadratic:
        total = self._on_all.total(params, direction, batches)
        if not total.complete:
            raise KeyboardInterrupt
        quadratic: Quadratic = total.result
        return quadratic


def _row(quadratic: Quadratic, steps: float, lr: float) -> list[float]:
    """The quadratic along ``steps`` times its direction, by ``NAMES``."""
    value, slope, curvature = (number.item() for number in quadratic)
    slope, curvature = steps * slope, steps * steps * curvature
    alpha = divided(-slope, curvature)
    return [value, slope, curvature, alpha, alpha * lr]
