"""What a run is: the settings, and the network they describe."""

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import nn

from alpha_func.calls import Kwargs
from alpha_func.experiment.optimizers import FIRST_LEARNING_RATE, SHARED, Algorithm, InputError, algorithm, unused
from alpha_func.experiment.rules import RULES
from alpha_func.optimizers.stepping import Options
from alpha_func.transforms.strategies import STRATEGIES

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
TASKS = ("regression", "classification")
LOSSES = ("mse", "cross-entropy")
TEXT = ("refuse", "one-hot", "leave-out")
MISSING = ("refuse", "drop", "mean")
STDIN = "-"
MOST = 10**12  # of anything that is counted
CAPTURED = "captured"
WAYS = (CAPTURED, *STRATEGIES)  # how dᵀHd is computed


@dataclass(frozen=True)
class Experiment:
    """A training run to observe; the defaults are the first experiment.

    Attributes:
        data: "normal" (X and y drawn from a standard normal, 1000 × 10 and 1000 × 1), "diabetes", "digits", or the path
            of a CSV file, or "-" for stdin.
        target: the CSV file's column to predict.
        task: "regression" or "classification"; None: what the data is.
        loss: "mse" or "cross-entropy"; None: mse for a regression, cross-entropy for classes.
        separator, decimal, encoding: of the CSV file.
        text, missing: what becomes of columns of text and of missing values: a name in TEXT, in MISSING.
        leave_out: columns of the CSV file that are not used.
        hidden: sizes of the hidden layers.
        activation: a name in ACTIVATIONS.
        optimizers: what to train with, each from the same weights on the same batches: names of KINDS, options of
            their own after colons, "adam:lr=0.001".
        lr: the learning rate, or a name in RULES, to step by that rule.
        momentum, betas, weight_decay, eps: for the optimizers that take them; None: as torch.optim has them.
        factor: the factor of the rule that is stepped by; None: the rule's own.
        ema: the rule that is stepped by takes its exponential moving average with this share of the last; pictures and
            summary show that average of α*.
        full_batch: every step takes all samples.
        epochs, batch_size, shuffle, seed, dtype: as their names say.
        strategy: "captured" (the loss as a program, by the second-order adjoint), or a name in STRATEGIES.
        every: α* is recorded at every such step.
        holdout_batch: record the quadratic of the next mini-batch along the same direction too.
        trust_radius, best_momentum: record what ``beyond`` says too.
        full_data: record that of all samples at every such step, a multiple of ``every``; None: never.
    """

    data: str = "normal"
    target: str | None = None
    task: str | None = None
    loss: str | None = None
    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    text: str = "refuse"
    missing: str = "refuse"
    leave_out: tuple[str, ...] = ()
    hidden: tuple[int, ...] = (5,)
    activation: str = "relu"
    optimizers: tuple[str, ...] = ("sgd",)
    lr: float | str = FIRST_LEARNING_RATE
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    eps: float | None = None
    factor: float | None = None
    ema: float | None = None
    epochs: int = 100
    batch_size: int = 32
    full_batch: bool = False
    shuffle: bool = False
    seed: int = 0
    dtype: str = "float32"
    strategy: str = CAPTURED
    every: int = 1
    holdout_batch: bool = False
    full_data: int | None = None
    trust_radius: bool = False
    best_momentum: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that no run can have.

        >>> Experiment(batch_size=0)
        Traceback (most recent call last):
        InputError: batch size is 0: give a whole number of at least 1
        """
        counts = {"epochs": self.epochs, "batch size": self.batch_size, "every": self.every}
        for name, value in (counts | {"full data": self.every if self.full_data is None else self.full_data}).items():
            if not 1 <= value <= MOST:
                raise InputError(
                    f"{name} is {value:g}: give a whole number of at least 1{', at most 1e12' * (value > 1)}"
                )
        if self.full_data is not None and self.full_data % self.every:
            raise InputError(
                f"full data is {self.full_data}, but every {self.every}-th step is recorded: give a multiple of "
                f"{self.every}"
            )
        for size in self.hidden:
            if not 1 <= size <= MOST:
                raise InputError(
                    f"hidden has a layer of size {size:g}: give whole numbers of at least 1, such as 64,32"
                )
        for name, rate in (("learning rate", self.lr), ("factor", self.factor)):
            if isinstance(rate, str):
                if rate not in RULES:
                    raise InputError(f"{name} {rate!r} is unknown: give a number such as 0.01, or {', '.join(RULES)}")
            elif rate is not None and not (math.isfinite(rate) and rate > 0):
                raise InputError(f"{name} is {rate:g}: give a positive number, such as 0.01")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InputError(f"ema is {self.ema:g}: give the share of the last average, from 0 to below 1, such as 0.9")
        if len(self.separator) != 1 or not (" " <= self.separator <= "~" or self.separator == "\t"):
            raise InputError(f"separator is {self.separator!r}: give one character such as ';', or tab")
        if self.separator.isalnum() or self.separator in ('"', self.decimal, "-", "+"):
            raise InputError(f"separator is {self.separator!r}, which can stand in a value: give another, such as ';'")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed}: give a whole number from 0 to 2^63 - 1")
        choices: list[tuple[str, str | None, Iterable[str]]] = [
            ("activation", self.activation, ACTIVATIONS),
            ("dtype", self.dtype, DTYPES),
            ("strategy", self.strategy, WAYS),
            ("task", self.task, TASKS),
            ("loss", self.loss, LOSSES),
            ("decimal", self.decimal, (".", ",")),
            ("text", self.text, TEXT),
            ("missing", self.missing, MISSING),
        ]
        for name, choice, known in choices:
            if choice is not None and choice not in known:
                raise InputError(f"{name} {choice!r} is unknown: choose from {', '.join(known)}")
        if not self.optimizers or len(set(self.optimizers)) < len(self.optimizers):
            raise InputError(f"optimizer is {','.join(self.optimizers)!r}: name one, or several that differ: sgd,adam")
        option = unused(self.shared_options(), self.algorithms())
        if option is not None:
            remedy = "; --optimizer momentum is SGD with it" if option == "momentum" else ""
            raise InputError(f"{option.replace('_', ' ')} is not an option of {','.join(self.optimizers)}{remedy}")
        rules = [RULES[one.lr] for one in self.algorithms() if isinstance(one.lr, str)]
        if self.factor is not None and not any(rule.factor for rule in rules):
            takers = ", ".join(name for name, rule in RULES.items() if rule.factor)
            raise InputError(f"factor is of a rule that is stepped by: give --lr with one of {takers}, or leave it out")
        largest = torch.finfo(DTYPES[self.dtype]).max
        for one in self.algorithms():
            for name, value in {"learning rate": one.lr, **one.options}.items():
                numbers = value if isinstance(value, tuple) else (value,)
                if any(not isinstance(number, str) and abs(number) > largest for number in numbers):
                    raise InputError(f"optimizer {one.label!r}: {name} is {value:g}, beyond {self.dtype}: give less")

    def batch_of(self, samples: int) -> int:
        """The size of a mini-batch where there are so many samples."""
        return samples if self.full_batch else min(self.batch_size, samples)

    def algorithms(self) -> tuple[Algorithm, ...]:
        """The optimizers with their options."""
        return tuple(algorithm(text, self.lr, self.shared_options()) for text in self.optimizers)

    def shared_options(self) -> Kwargs:
        """The options that were given for all optimizers that take them."""
        return {name: value for name in SHARED if (value := getattr(self, name)) is not None}

    def measures_all(self, step: int) -> bool:
        """Whether a step is measured on all samples."""
        return self.full_data is not None and step % self.full_data == 0

    def settings(self) -> Kwargs:
        """Every setting, for a JSON file."""
        return asdict(self)

    @classmethod
    def of(cls, settings: Options) -> Self:
        """The experiment of ``settings``, read back from a JSON file."""
        read: Kwargs = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        for name, default in cls().settings().items():
            value = read.get(name, default)
            kinds = (type(default), int, str) if name == "lr" else (type(default), int)
            if None not in (value, default) and not isinstance(value, kinds):
                raise TypeError(f"{name} is {value!r}")
        return cls(**read)


def check_memory(experiment: Experiment, inputs: int, outputs: int, samples: int) -> None:
    """Refuse a network that this machine cannot hold, before it is asked for.

    >>> check_memory(Experiment(hidden=(10**9, 10**9)), 10, 1, 1000)
    Traceback (most recent call last):
    InputError: hidden 1000000000,1000000000 makes 1e+18 parameters, ...
    """
    sizes = (inputs, *experiment.hidden, outputs)
    parameters = sum((m + 1) * n for m, n in pairwise(sizes))
    copies = 4 + 5 * len(experiment.optimizers)  # θ, g, d and θ⁺ of the step at work; of each optimizer θ and its state
    activations = 8 * experiment.batch_of(samples) * sum(sizes)  # with their tangents and adjoints
    needed = (copies * parameters + activations) * DTYPES[experiment.dtype].itemsize
    there = _memory()
    if there is not None and needed > there:
        raise InputError(
            f"hidden {','.join(map(str, experiment.hidden))} makes {parameters:.3g} parameters, which take about "
            f"{needed / 2**30:,.3g} GiB in batches of {experiment.batch_of(samples)}, and this machine has "
            f"{there / 2**30:.3g} GiB: give smaller layers or a smaller --batch-size"
        )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def network(experiment: Experiment, inputs: int, outputs: int) -> nn.Sequential:
    """The multilayer perceptron inputs-hidden-outputs, its weights drawn from the seed; the global RNG stays put.

    >>> network(Experiment(), 10, 1)
    Sequential(
      (0): Linear(in_features=10, out_features=5, bias=True)
      (1): ReLU()
      (2): Linear(in_features=5, out_features=1, bias=True)
    )
    """
    activation = ACTIVATIONS[experiment.activation]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(experiment.seed)
        for m, n in pairwise((inputs, *experiment.hidden, outputs)):
            layers += [nn.Linear(m, n), activation()]
    return nn.Sequential(*layers[:-1]).to(DTYPES[experiment.dtype])
