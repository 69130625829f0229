"""One row a step, and the file of rows."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


class Record(NamedTuple):
    """What is known of one step θ → θ + lr·d, where d is the optimizer's step for each unit of its learning rate.

    For plain SGD d = −g of the mini-batch. loss, slope and curvature are the quadratic of the mini-batch's loss along d
    at θ; alpha = −slope/curvature is a learning rate. lr_over_alpha is 1 where the step lands on the minimum of the
    quadratic, and 2 where the quadratic predicts no progress; alpha_steps is its inverse, α* in steps of the optimizer.
    loss_after is the loss of the same mini-batch at θ + lr·d. cosine is that of the angle between d and −g, and
    weight_decay_share the part of the slope that weight decay has. elsewhere holds the quadratic along the same d of
    other samples, if asked for. Epochs, batches and steps count from 0.
    """

    epoch: int
    batch: int
    step: int
    loss: float
    slope: float
    curvature: float
    alpha: float
    lr: float
    lr_over_alpha: float
    loss_after: float
    direction_norm: float
    optimizer: str
    alpha_steps: float
    cosine: float
    weight_decay_share: float
    direction_norms: tuple[float, ...]
    elsewhere: tuple[float, ...] = ()

    def row(self) -> list[object]:
        """The record as one row of a table: ``columns`` of it."""
        *fields, norms, elsewhere = self
        return [*fields, *norms, *elsewhere]


def columns(parameter_names: Iterable[str], elsewhere: Iterable[str] = ()) -> list[str]:
    """The header: the fields, the norm of the direction for each parameter, and the names of ``elsewhere``.

    >>> columns(["0.weight"])[-2:]
    ['weight_decay_share', 'direction_norm.0.weight']
    """
    return [*Record._fields[:-2], *(f"direction_norm.{name}" for name in parameter_names), *elsewhere]


class RecordFile:
    """A CSV file of records, each row on disk when ``write`` returns: an interrupted run leaves whole rows."""

    def __init__(self, path: Path, parameter_names: Sequence[str], elsewhere: Sequence[str] = ()):
        # Line buffered: a row is one system call, so a kill cannot cut it in two.
        self._file = path.open("x", newline="", buffering=1, encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(columns(parameter_names, elsewhere))

    def write(self, record: Record) -> None:
        """Append a record."""
        self._writer.writerow(record.row())

    def __enter__(self) -> Self:
        """Itself; the file is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()
