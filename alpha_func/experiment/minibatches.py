"""The mini-batches of a run, in the order in which it takes them."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from alpha_func.experiment.data import Data
from alpha_func.experiment.settings import Experiment


class Minibatch(NamedTuple):
    """Where a mini-batch stands in the run, its samples, and the next mini-batch of its epoch, or the first.

    ``rng`` is the state of the shuffling generator from which its epoch's order was drawn.
    """

    epoch: int
    batch: int
    step: int
    inputs: Tensor
    targets: Tensor
    held_out: tuple[Tensor, Tensor]
    rng: Tensor


def batches(experiment: Experiment, data: Data, after: int = -1, rng: Tensor | None = None) -> Iterator[Minibatch]:
    """The mini-batches of a run: in order, or shuffled anew every epoch from the seed.

    They are those after the step ``after``, with the ``rng`` of that step's batch.

    >>> from alpha_func.experiment.data import load
    >>> experiment = Experiment(epochs=2)
    >>> sum(1 for _ in batches(experiment, load(experiment)))
    64
    """
    generator = torch.Generator().manual_seed(experiment.seed)
    if rng is not None:
        generator.set_state(rng)
    size = experiment.batch_of(len(data.inputs))
    per_epoch = math.ceil(len(data.inputs) / size)
    for epoch in range(max(after, 0) // per_epoch, experiment.epochs):
        inputs, targets, drawn_from = data.inputs, data.targets, generator.get_state()
        if experiment.shuffle:
            order = torch.randperm(len(inputs), generator=generator)
            inputs, targets = inputs[order], targets[order]
        pieces = list(zip(torch.split(inputs, size), torch.split(targets, size), strict=True))
        for batch, (x, y) in enumerate(pieces):
            step = epoch * per_epoch + batch
            if step > after:
                yield Minibatch(epoch, batch, step, x, y, pieces[(batch + 1) % per_epoch], drawn_from)


def steps_of(experiment: Experiment, data: Data) -> int:
    """How many steps a run takes.

    >>> from alpha_func.experiment.data import load
    >>> steps_of(Experiment(), load(Experiment()))
    3200
    """
    return experiment.epochs * math.ceil(len(data.inputs) / experiment.batch_of(len(data.inputs)))
