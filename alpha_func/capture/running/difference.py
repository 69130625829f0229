"""When two numbers are one: they differ by no more than the roundings of either.

How far roundings go is seen by running the program with its values disturbed by as much.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from alpha_func.capture.running.backends import Runnable
from alpha_func.capture.running.evidence import OF_PROGRAM, Numbers
from alpha_func.capture.tracing.roundings import apart, disturbed, in_double

_RUNS = 3
_SIZE = 16  # of the roundings: those of a sum of a few hundred terms, near enough to a kink to fall on either side
_FAR = 8  # spreads under such roundings that two orders of one derivative may lie apart


@dataclass(frozen=True)
class Doubt:
    """Why a scheme is not taken for the loss's: a number that parts from the evidence, or an error.

    what: which number, and by how much; or the error.    of_program: whether the program itself is not the loss.
    """

    what: str
    of_program: bool = False


class Spread:
    """How far each number goes under roundings; nowhere where the program does not run as it was written."""

    def __init__(self, numbers: Callable[[Runnable], Numbers], written: Callable[[], fx.GraphModule] | None):
        self._numbers, self._written = numbers, written
        self._exact: Numbers = {}
        self._most: dict[str, float] = {}
        self._runs: Iterator[Numbers] | None = None

    def explains(self, name: str, difference: float) -> bool:
        """Whether it is no larger than what roundings make; as many runs as that takes."""
        while not difference <= _FAR * self._most.get(name, 0.0):  # so for a NaN
            try:
                run = next(self._started())
            except Exception:  # all have run, or one failed
                return False
            for each, x in self._exact.items():
                self._most[each] = max(self._most.get(each, 0.0), apart(run[each], x))
        return True

    def _started(self) -> Iterator[Numbers]:
        if self._runs is None:
            if self._written is None:
                return iter(())
            program = self._written()
            self._exact = self._numbers(program)
            self._runs = (self._numbers(run) for run in disturbed(program, _RUNS, _SIZE))
        return self._runs


def finite(numbers: Numbers) -> bool:
    """Whether all are."""
    return all(x.isfinite().all() for x in numbers.values())


def parted(got: Numbers, expected: Numbers, tolerance: float, spread: Spread) -> Doubt | None:
    """The first number that is farther from the evidence than roundings go."""
    pairs = {name: (x, expected[name]) for name, x in got.items() if name in expected}
    if OF_PROGRAM in expected:
        pairs = {OF_PROGRAM: (expected[OF_PROGRAM], expected["slope"])} | pairs
    for name, pair in pairs.items():
        ours, theirs = (each.detach() for each in _without_nan(*pair))  # of other parameters they may have a graph
        difference, size = apart(ours, theirs), float(in_double(theirs).norm())
        if difference <= (tolerance * size if math.isfinite(size) else 0):
            continue
        if spread.explains("slope" if name == OF_PROGRAM else name, difference):
            continue
        if ours.ndim:
            return Doubt(f"the {name} is off by {difference:.3g} of {size:.3g}")
        what = f"the {name} is {float(ours):.9g}, by PyTorch's own derivatives {float(theirs):.9g}"
        return Doubt(what, name == OF_PROGRAM)
    return None


def _without_nan(got: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """The two without the entries where PyTorch gives NaN, with which nothing can be compared."""
    nan = expected.isnan()
    if not nan.any():
        return got, expected
    return torch.where(nan, 0, got), torch.where(nan, 0, expected)
