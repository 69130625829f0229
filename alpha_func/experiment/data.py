"""The data of a run, as tensors: drawn, from scikit-learn, or from the user's CSV file."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.settings import DTYPES, Experiment

SAMPLES, FEATURES = 1000, 10  # of the first experiment


class Data(NamedTuple):
    """inputs (samples × features), targets (samples × 1, or samples for classes), and what to train on them."""

    inputs: Tensor
    targets: Tensor
    outputs: int
    criterion: nn.Module


def load(experiment: Experiment) -> Data:
    """The data that an experiment names, in its dtype.

    Real data is standardised: every feature, and a regression's target, has mean 0 and standard deviation 1.

    Raises:
        InputError: the data cannot be had or cannot be used.

    >>> data = load(Experiment())
    >>> data.inputs.shape, data.targets.shape
    (torch.Size([1000, 10]), torch.Size([1000, 1]))
    """
    if experiment.target is not None and experiment.data in ("normal", "diabetes", "digits"):
        raise InputError(f"target is for a CSV file: --data {experiment.data} has a target of its own")
    if experiment.data == "normal":
        return _normal(experiment)
    if experiment.data in ("diabetes", "digits"):
        return _from_scikit_learn(experiment)
    return _from_csv(experiment)


def _normal(experiment: Experiment) -> Data:
    if experiment.task == "classification":
        raise InputError("--data normal is a regression: leave --task out, or choose --data digits")
    generator = torch.Generator().manual_seed(experiment.seed)
    inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
    targets = torch.randn(SAMPLES, 1, generator=generator)
    dtype = DTYPES[experiment.dtype]
    return Data(inputs.to(dtype), targets.to(dtype), 1, nn.MSELoss())


def _from_scikit_learn(experiment: Experiment) -> Data:
    from sklearn import datasets

    load, task = {
        "diabetes": (datasets.load_diabetes, "regression"),
        "digits": (datasets.load_digits, "classification"),
    }[experiment.data]
    if experiment.task not in (None, task):
        raise InputError(f"--data {experiment.data} is a {task}: leave --task out")
    inputs, targets = load(return_X_y=True)
    return _data(experiment, inputs, targets, task)


def _from_csv(experiment: Experiment) -> Data:
    path = Path(experiment.data)
    if not path.is_file():
        raise InputError(f"data file {experiment.data} does not exist: give a CSV file, or normal, diabetes, digits")
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise InputError(f"data file {path} is no readable CSV: {str(error).splitlines()[0]}") from error
    columns = ", ".join(map(str, table.columns[:12])) + (", ..." if len(table.columns) > 12 else "")
    if experiment.target is None:
        raise InputError(f"--target is missing: name the column of {path} to predict; it has {columns}")
    if experiment.target not in table.columns:
        raise InputError(f"target {experiment.target!r} is not a column of {path}: it has {columns}")
    if len(table.columns) < 2:
        raise InputError(f"{path} has the target alone: at least one column to predict from is needed")
    if table.empty:
        raise InputError(f"{path} has no rows below its header")
    task = experiment.task or "regression"
    inputs = table.drop(columns=experiment.target).apply(lambda column: _numbers(column, path))
    target = table[experiment.target]
    if task == "classification":
        if target.isna().any():
            raise InputError(f"target {experiment.target!r} of {path} is missing in data row {_first(target.isna())}")
        targets = pd.factorize(target, sort=True)[0]
    else:
        targets = _numbers(target, path, hint="; for class labels use --task classification").to_numpy()
    return _data(experiment, inputs.to_numpy(), targets, task)


def _numbers(column: Any, path: Path, hint: str = "; remove the column or make it numbers") -> Any:
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    text = numbers.isna() & column.notna()
    if text.any():
        row = _first(text)
        raise InputError(f"column {column.name!r} of {path} has text in data row {row}: {column.iloc[row - 1]!r}{hint}")
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = _first(bad)
        what = "NaN or nothing" if np.isnan(numbers.iloc[row - 1]) else "infinity"
        raise InputError(f"column {column.name!r} of {path} has {what} in data row {row}: fill it in or remove the row")
    return numbers


def _first(mask: Any) -> int:
    """The first row where a mask is true, counted from 1 below the header."""
    return int(np.argmax(mask.to_numpy())) + 1


def _data(experiment: Experiment, inputs: Any, targets: Any, task: str) -> Data:
    dtype = DTYPES[experiment.dtype]
    x = torch.from_numpy(_standardised(inputs)).to(dtype)
    if task == "classification":
        return Data(x, torch.from_numpy(targets).long(), int(targets.max()) + 1, nn.CrossEntropyLoss())
    y = torch.from_numpy(_standardised(targets.reshape(-1, 1))).to(dtype)
    return Data(x, y, 1, nn.MSELoss())


def _standardised(columns: Any) -> Any:
    columns = np.array(columns, dtype=np.float64)
    deviation = columns.std(axis=0)
    return (columns - columns.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)  # a constant column becomes 0
