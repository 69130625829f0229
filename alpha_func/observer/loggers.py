"""Where records go: each a callable of a record, or of any NamedTuple with a ``step``.

Give one or several as ``Observer(..., log=...)``; a function of a record is as good. ``close`` is called with the
observer's.
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

from alpha_func.observer.extras import required
from alpha_func.observer.line_file import LineFile
from alpha_func.observer.record import Record, columns


class CSVLog:
    """A CSV file with a row for each record, every row on disk when the call returns.

    Args:
        path: of the file; its folder is made.
        append: continue a file of the same columns instead of refusing one that exists; an incomplete last row is
            removed.
        digits: significant digits of a number; None: as many as tell it from every other.

    Raises:
        FileExistsError: the file exists, and ``append`` is not set.
        ValueError: at a record, the file has other columns.
        OSError: at a record, the disk is full; the rows before it are kept.

    >>> import tempfile
    >>> from collections import namedtuple
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = CSVLog(Path(folder) / "alpha.csv")
    ...     log(namedtuple("Row", "step alpha_steps")(0, 1.5))
    ...     log.close()
    ...     (Path(folder) / "alpha.csv").read_text().split()
    ['step,alpha_steps', '0,1.5']
    """

    def __init__(self, path: str | Path, *, append: bool = False, digits: int | None = None):
        self._path, self._digits = Path(path), digits
        self._file = LineFile(path, append=append)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._columns: list[str] | None = None

    def __call__(self, record: Record) -> None:
        """Write a row, and before the first the header."""
        fields = columns(record)
        if self._columns is None:
            self._begin(list(fields))
        self._writer.writerow(map(self._text, fields.values()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin(self, columns: list[str]) -> None:
        found = next(csv.reader([self._file.first_line()]), None)
        if not found:
            self._writer.writerow(columns)
        elif found != columns:
            raise ValueError(
                f"{self._path} has the columns {found}, expected {columns}: append to a file that has these columns"
            )
        self._columns = columns

    def _text(self, value: object) -> Any:
        return f"{value:.{self._digits}g}" if self._digits and isinstance(value, float) else value


class JSONLinesLog:
    """A file with one JSON object a line for each record.

    JSON has no NaN and no infinity: they are the strings "NaN", "Infinity" and "-Infinity", which ``float`` reads.

    Args:
        path: of the file; its folder is made.
        append: continue a file that exists instead of refusing it; an incomplete last line is removed.

    Raises:
        FileExistsError: the file exists, and ``append`` is not set.
    """

    def __init__(self, path: str | Path, *, append: bool = False):
        self._file = LineFile(path, append=append)

    def __call__(self, record: Record) -> None:
        """Write a line."""
        fields = {name: _strict(value) for name, value in columns(record).items()}
        self._file.write(json.dumps(fields, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLog:
    """TensorBoard scalars, one for each number of a record, at the record's step.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or the folder for one, closed with the log.
        prefix: of the tags.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, writer: Any, *, prefix: str = "alpha_func/"):
        self._prefix, self._own = prefix, isinstance(writer, str | Path)
        if self._own:
            required("tensorboard", "tensorboard")
            writer = required("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(writer))
        self._writer = writer

    def __call__(self, record: Record) -> None:
        """Add the scalars."""
        for name, value in record_numbers(record, self._prefix).items():
            self._writer.add_scalar(name, value, record.step)

    def close(self) -> None:
        """Close the writer, if it is the log's own; write what it holds otherwise."""
        if self._own:
            self._writer.close()
        else:
            self._writer.flush()


class WandbLog:
    """Weights & Biases: each record one ``run.log``, drawn over ``<prefix>step``.

    Args:
        run: from ``wandb.init``; None takes the run that is active.
        prefix: of the names.
        commit: make each record its own row of the history, which takes one of wandb's steps. If you log with step
            numbers that grow more slowly (``run.log(..., step=epoch)``), pass False: the numbers then join your next
            row.

    Raises:
        ImportError: wandb is not installed.
        ValueError: no run is given, and none is active.
    """

    def __init__(self, run: Any = None, *, prefix: str = "alpha_func/", commit: bool = True):
        run = required("wandb", "wandb").run if run is None else run
        if run is None:
            raise ValueError("no Weights & Biases run is active: call wandb.init() first, or pass its run")
        self._run, self._prefix, self._commit = run, prefix, commit
        run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")

    def __call__(self, record: Record) -> None:
        """Log the numbers."""
        numbers = {**record_numbers(record, self._prefix), f"{self._prefix}step": record.step}
        self._run.log(numbers, commit=self._commit)


class MLflowLog:
    """MLflow metrics, one for each number of a record, at the record's step.

    Args:
        run_id: of the run; None takes the one that is active.
        prefix: of the names.

    Raises:
        ImportError: mlflow is not installed.
        ValueError: no run is given, and none is active.
    """

    def __init__(self, run_id: str | None = None, *, prefix: str = "alpha_func/"):
        self._mlflow = required("mlflow", "mlflow")
        if run_id is None:
            run = self._mlflow.active_run()
            if run is None:
                raise ValueError("no MLflow run is active: call mlflow.start_run() first, or pass a run_id")
            run_id = run.info.run_id
        self._run_id, self._prefix = run_id, prefix

    def __call__(self, record: Record) -> None:
        """Log the metrics."""
        self._mlflow.log_metrics(record_numbers(record, self._prefix), step=record.step, run_id=self._run_id)


def record_numbers(record: Record, prefix: str = "") -> dict[str, float]:
    """The record's numbers by their columns, without the step; what is not known, or is a word, is left out."""
    found = {name: value for name, value in columns(record).items() if name != "step"}
    return {f"{prefix}{name}": float(value) for name, value in found.items() if isinstance(value, int | float)}


def _strict(value: object) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
