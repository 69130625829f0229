"""The rules that a run can step by, by the names of the command line."""

from collections.abc import Callable
from typing import NamedTuple

from alpha_func.step_rules import StepRule, armijo, cdat, damped, pal, polyak, trusted


class RateRule(NamedTuple):
    """A step rule, whose α is a learning rate.

    Attributes:
        make: of a factor, the share of the past in its averages, and α where there is nothing to go by yet.
        description: what a step is, in words.
        factor: its own; None where it takes none.
        averages: whether it takes an average over steps.
        asks_gain: whether it asks for the gain ratio of every step, a forward pass.
    """

    make: Callable[[float, float, float], StepRule]
    description: str
    factor: float | None
    averages: bool = False
    asks_gain: bool = False


RULES = {
    "alpha": RateRule(lambda factor, beta, first: damped(factor, beta=beta, first=first), "α*", 1.0, averages=True),
    "cdat": RateRule(lambda sigma, beta, first: cdat(sigma, beta=beta, first=first), "CDAT's rate", 2.0, averages=True),
    "polyak": RateRule(lambda factor, beta, first: polyak(factor=factor, first=first), "Polyak's rate", 1.0),
    "pal": RateRule(lambda factor, beta, first: pal(adaptation=factor, first=first), "PAL's rate", 1 / 0.6),
    "armijo": RateRule(lambda factor, beta, first: armijo(), "Armijo's rate", None),
    "trusted": RateRule(
        lambda factor, beta, first: trusted(damped(factor, beta=beta, first=first)),
        "α* within a trust region", 1.0, averages=True, asks_gain=True,
    ),
}  # fmt: skip


def step_rule_of(name: str, factor: float | None, beta: float | None, first: float) -> StepRule:
    """The rule of a name, with its own factor where none is given.

    >>> import torch
    >>> from alpha_func import Quadratic
    >>> init, update = step_rule_of("cdat", None, None, 0.01)
    >>> update(Quadratic(*torch.tensor([5.0, -4.0, 8.0])), init())[0]
    tensor(1.)
    """
    rule = RULES[name]
    return rule.make(rule.factor or 1.0 if factor is None else factor, beta or 0.0, first)
