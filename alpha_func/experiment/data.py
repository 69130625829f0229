"""The data of a run, as tensors: drawn, from scikit-learn, or from the user's table."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.settings import DTYPES, Experiment
from alpha_func.experiment.tables import read

SAMPLES, FEATURES = 1000, 10  # of the first experiment
KNOWN = ("normal", "diabetes", "digits")


class Data(NamedTuple):
    """inputs (samples × features), targets (samples × outputs, or samples for classes), and what to train on them.

    ``notes`` say in a sentence each what was done to the user's table.
    """

    inputs: Tensor
    targets: Tensor
    outputs: int
    criterion: nn.Module
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """A hash of the numbers: a run goes on with the data that it began with."""
        found = hashlib.sha256()
        for samples in (self.inputs, self.targets):
            found.update(samples.double().numpy().tobytes())
        return found.hexdigest()


def load(experiment: Experiment) -> Data:
    """The data that an experiment names, in its dtype.

    Real data is standardised: every feature, and a regression's target, has mean 0 and standard deviation 1.

    Raises:
        InputError: the data cannot be had or cannot be used.

    >>> data = load(Experiment())
    >>> data.inputs.shape, data.targets.shape
    (torch.Size([1000, 10]), torch.Size([1000, 1]))
    """
    if experiment.data in KNOWN:
        given = {"target": experiment.target, "leave out": experiment.leave_out}
        for name, value in given.items():
            if value:
                raise InputError(f"{name} is for a CSV file: --data {experiment.data} has columns of its own")
    if experiment.data == "normal":
        return _normal(experiment)
    if experiment.data in KNOWN:
        return _from_scikit_learn(experiment)
    inputs, target, notes = read(experiment)
    task = experiment.task or "regression"
    targets = pd.factorize(target, sort=True)[0] if task == "classification" else target.to_numpy()
    constant = [str(name) for name, column in inputs.items() if not _standardised(column).any()]
    if constant:
        notes.append(f"constant, so 0 in every row: {', '.join(constant[:12])}{', ...' * (len(constant) > 12)}")
    return _data(experiment, inputs.to_numpy(), targets, task)._replace(notes=tuple(notes))


def _normal(experiment: Experiment) -> Data:
    if experiment.task == "classification":
        raise InputError("--data normal is a regression: leave --task out, or choose --data digits")
    _check_loss(experiment, "regression")
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


def _data(experiment: Experiment, inputs: object, targets: Any, task: str) -> Data:
    _check_loss(experiment, task)
    dtype = DTYPES[experiment.dtype]
    x = torch.from_numpy(_standardised(inputs)).to(dtype)
    if task == "regression":
        y = torch.from_numpy(_standardised(targets.reshape(-1, 1))).to(dtype)
        return Data(x, y, 1, nn.MSELoss())
    labels = torch.from_numpy(targets).long()
    classes = int(labels.max()) + 1
    if experiment.loss == "mse":
        return Data(x, nn.functional.one_hot(labels, classes).to(dtype), classes, nn.MSELoss())
    return Data(x, labels, classes, nn.CrossEntropyLoss())


def _check_loss(experiment: Experiment, task: str) -> None:
    if task == "regression" and experiment.loss == "cross-entropy":
        raise InputError("loss cross-entropy is for classes: say --task classification, or leave --loss out")


def _standardised(columns: Any) -> Any:
    """(column − mean) / standard deviation; a column that is constant up to rounding becomes 0."""
    columns = np.array(columns, dtype=np.float64)
    _, exponent = np.frexp(np.abs(columns).max(axis=0))
    columns = np.ldexp(columns, -exponent)  # exact, and no square overflows
    centred = columns - columns.mean(axis=0)
    deviation = centred.std(axis=0)
    constant = deviation <= 16 * np.finfo(np.float64).eps
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation))
