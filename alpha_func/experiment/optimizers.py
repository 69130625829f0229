"""The optimizers that a run can train with, by the names and options of the command line."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from alpha_func.calls import Kwargs
from alpha_func.experiment.rules import RULES
from alpha_func.optimizers.pure import Direction, from_optimizer
from alpha_func.optimizers.stepping import Options

FIRST_LEARNING_RATE = 0.01
BIAS = "bias"


class InputError(ValueError):
    """Something the user gave that cannot be used; the message says what, and how to mend it."""


class Kind(NamedTuple):
    """A torch.optim class, what of it is fixed, and which options may be given."""

    optimizer: type[Optimizer]
    fixed: Kwargs
    options: tuple[str, ...]
    biases: tuple[type[Optimizer], tuple[str, ...]] | None = None  # another class, and which options it shares


_ADAM = ("betas", "eps", "weight_decay")
KINDS = {
    "sgd": Kind(torch.optim.SGD, {}, ("weight_decay",)),
    "momentum": Kind(torch.optim.SGD, {"momentum": 0.9}, ("momentum", "dampening", "weight_decay")),
    "nesterov": Kind(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, ("momentum", "weight_decay")),
    "adam": Kind(torch.optim.Adam, {}, _ADAM),
    "adamw": Kind(torch.optim.AdamW, {}, _ADAM),
    "rmsprop": Kind(torch.optim.RMSprop, {}, ("alpha", "eps", "momentum", "weight_decay")),
    "adagrad": Kind(torch.optim.Adagrad, {}, ("eps", "lr_decay", "weight_decay")),
    # torch.optim.Muon takes matrices alone; its users step the rest by AdamW.
    "muon": Kind(torch.optim.Muon, {}, ("momentum", "weight_decay"), (torch.optim.AdamW, ("weight_decay",))),
}
SHARED = ("momentum", "betas", "weight_decay", "eps")  # options that can be given to every optimizer at once


@dataclass(frozen=True)
class Algorithm:
    """One optimizer of a run.

    Attributes:
        label: as the user wrote it, "adam:lr=0.001"; it names the optimizer in the records and the pictures.
        kind: a name in KINDS.
        lr: the learning rate, or a name in RULES to step by.
        options: of the torch.optim class, beside lr.
    """

    label: str
    kind: str
    lr: float | str
    options: Options

    @property
    def nominal_lr(self) -> float:
        """The learning rate that the optimizer itself is given."""
        return FIRST_LEARNING_RATE if isinstance(self.lr, str) else self.lr

    @property
    def is_steepest_descent(self) -> bool:
        """Whether the step is lr·(−g), for which no optimizer is needed."""
        return self.kind == "sgd" and not self.options.get("weight_decay")

    def direction(self) -> Direction:
        """The optimizer's step as a pure function."""
        groups = {f"*.{BIAS}": {"optimizer": kind, **options} for kind, options in self._biases()}
        return from_optimizer(KINDS[self.kind].optimizer, groups=groups, lr=self.nominal_lr, **self._all_options())

    def optimizers(self, module: nn.Module) -> list[Optimizer]:
        """The live optimizers that train a module as ``direction`` does."""
        make: Callable[..., Optimizer] = KINDS[self.kind].optimizer
        named = list(module.named_parameters())
        biases = self._biases()
        rest = [p for name, p in named if not (biases and name.endswith(f".{BIAS}"))]
        live = [make(rest, lr=self.nominal_lr, **self._all_options())]
        for kind, options in biases:
            make = kind
            live.append(make([p for name, p in named if name.endswith(f".{BIAS}")], **options))
        return live

    def _all_options(self) -> Kwargs:
        return {**KINDS[self.kind].fixed, **self.options}

    def _biases(self) -> list[tuple[type[Optimizer], Kwargs]]:
        biases = KINDS[self.kind].biases
        if biases is None:
            return []
        kind, shared = biases
        return [
            (kind, {"lr": self.nominal_lr, **{name: self.options[name] for name in shared if name in self.options}})
        ]


def algorithm(text: str, lr: float | str, shared: Options) -> Algorithm:
    """The optimizer that a text names: a name of KINDS, and after colons options of its own.

    Args:
        text: "adam", or "adam:lr=0.001:betas=0.9/0.99".
        lr: the learning rate where the text gives none.
        shared: options for every optimizer that takes them.

    Raises:
        InputError: an unknown name or option, or a value that the optimizer refuses.

    >>> algorithm("adam:betas=0.9/0.99", 0.1, {"weight_decay": 0.5, "momentum": 0.9})
    Algorithm(label='adam:betas=0.9/0.99', kind='adam', lr=0.1, options={'weight_decay': 0.5, 'betas': (0.9, 0.99)})
    >>> algorithm("adma", 0.1, {})
    Traceback (most recent call last):
    InputError: optimizer 'adma' is unknown: choose from sgd, momentum, nesterov, adam, adamw, rmsprop, adagrad, muon
    """
    name, *given = text.split(":")
    if name not in KINDS:
        raise InputError(f"optimizer {name!r} is unknown: choose from {', '.join(KINDS)}")
    accepted = KINDS[name].options
    options = {option: value for option, value in shared.items() if option in accepted}
    for assignment in given:
        option, equals, value = assignment.partition("=")
        if not equals or option not in ("lr", *accepted):
            raise InputError(f"optimizer {text!r}: {assignment!r} is not one of its options: {_example(name)}")
        if option == "lr":
            lr = value if value in RULES else _positive(text, value, f", nor a rule: {', '.join(RULES)}")
        else:
            options[option] = _value(text, option, value)
    for option, value in options.items():
        if not all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
            raise InputError(f"optimizer {text!r}: {option.replace('_', ' ')} is {value}: give a finite number")
    made = Algorithm(text, name, lr, options)
    try:
        made.direction()
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {text!r}: {error}") from error
    return made


def unused(shared: Options, algorithms: tuple[Algorithm, ...]) -> str | None:
    """An option that none of the algorithms takes."""
    return next((name for name in shared if not any(name in KINDS[one.kind].options for one in algorithms)), None)


def _example(name: str) -> str:
    values = {"betas": "0.9/0.999"}
    return ":".join([name, "lr=0.01", *(f"{option}={values.get(option, '0.1')}" for option in KINDS[name].options)])


def _value(text: str, option: str, value: str) -> object:
    numbers = [_number(text, part) for part in value.split("/")]
    if len(numbers) != (2 if option == "betas" else 1):
        raise InputError(
            f"optimizer {text!r}: {option} is {value}: give {'0.9/0.999' if option == 'betas' else 'one number'}"
        )
    return tuple(numbers) if option == "betas" else numbers[0]


def _number(text: str, value: str, nor: str = "") -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"optimizer {text!r}: {value!r} is not a number{nor}") from None


def _positive(text: str, value: str, nor: str) -> float:
    number = _number(text, value, nor)
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"optimizer {text!r}: learning rate is {number:g}: give a positive number, such as 0.01")
    return number
