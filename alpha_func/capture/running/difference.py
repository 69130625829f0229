"""When two numbers are one: they differ by no more than the roundings of either.

How far roundings go is seen by running the program with its values disturbed by as much.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from alpha_func import tree
from alpha_func.capture.running.backends import Runnable
from alpha_func.capture.running.evidence import GRADIENT, OF_PROGRAM, Numbers, Witness
from alpha_func.capture.running.points import Point
from alpha_func.capture.tracing.roundings import apart, coarsest, disturbed, length

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
    """How far each number goes under roundings, in as many runs as a difference takes to be explained."""

    def __init__(self) -> None:
        self._most: dict[str, float] = {}
        self._exact: Numbers = {}
        self._first: Numbers = {}
        self._runs: Iterator[Numbers] | None = None

    def started(self) -> tuple[Numbers, Iterator[Numbers]]:
        """The numbers without roundings, and runs with them."""
        raise NotImplementedError

    def explains(self, name: str, difference: float) -> bool:
        """Whether it is no larger than what roundings make."""
        while not difference <= _FAR * self._most.get(name, 0.0):  # so for a NaN
            try:
                if self._runs is None:
                    self._exact, self._runs = self.started()
                run = next(self._runs)
            except Exception:  # all have run, or one failed
                return False
            self._first = self._first or run
            for each in self._exact.keys() & run.keys():
                # A value that every run moves alike is another one: a program that reads memory as it happens to lie.
                without = self._first if each == "value" else self._exact
                far = apart(run[each], without[each])
                if math.isfinite(far):  # or it would explain anything
                    self._most[each] = max(self._most.get(each, 0.0), far)
        return True


class Roundings(Spread):
    """Of a scheme as it was written; none where it does not run so."""

    def __init__(self, numbers: Callable[[Runnable], Numbers], written: Callable[[], fx.GraphModule] | None):
        super().__init__()
        self._numbers, self._written = numbers, written

    def started(self) -> tuple[Numbers, Iterator[Numbers]]:
        """Every operation rounded anew."""
        if self._written is None:
            return {}, iter(())
        program = self._written()
        return self._numbers(program), (self._numbers(run) for run in disturbed(program, _RUNS, _SIZE))


class Shaken(Spread):
    """Of the evidence: PyTorch's own formulas may cancel where a scheme's do not."""

    def __init__(
        self, route: Callable[[Witness, Point], Numbers], witness: Witness, point: Point, numbers: Numbers
    ) -> None:
        super().__init__()
        self._at, self._unshaken = lambda seed: route(witness, point.shaken(witness.count, seed)), numbers

    def started(self) -> tuple[Numbers, Iterator[Numbers]]:
        """The parameters off by a rounding."""
        return self._unshaken, map(self._at, range(_RUNS))


class Rounded(Spread):
    """Of the evidence: how far it lies in the precision of the call from what it is in double.

    Args:
        numbers: gives it in the one, and in the other.
    """

    def __init__(self, numbers: Callable[[], Sequence[Numbers]]) -> None:
        super().__init__()
        self._numbers = numbers

    def explains(self, name: str, difference: float) -> bool:
        """Whether it is no larger than what roundings make of the evidence."""
        got, exact = self._numbers()
        return name in got and name in exact and difference <= _FAR * apart(got[name], exact[name])


def floors(numbers: Numbers, point: Point, count: int) -> dict[str, float]:
    """What a rounding of the value is to its derivatives, were they of its size, and one of the gradient to its parts.

    For derivatives that vanish: the bias of keys.
    """
    if "value" not in numbers:
        return {}
    θ = float(tree.norm(point.inputs[:count])) or math.inf
    rounding = coarsest(point.inputs) * abs(float(numbers["value"])) / θ
    gradient = math.hypot(*(length(x) for name, x in numbers.items() if name.startswith(GRADIENT.format(""))))
    gradient = gradient if math.isfinite(gradient) else 0.0
    d = float(tree.norm(point.direction)) if point.direction else gradient
    found = {"slope": rounding * d, OF_PROGRAM: rounding * d, "curvature": rounding * d * d / θ}
    part = max(rounding, coarsest(point.inputs) * gradient)
    return {name: found.get(name, part) for name in numbers if name != "value" and "order" not in name}


def finite(numbers: Numbers) -> bool:
    """Whether all are."""
    return all(x.isfinite().all() for x in numbers.values())


def first_doubt(
    got: Numbers, expected: Numbers, tolerance: float, spreads: Sequence[Spread], floors: dict[str, float]
) -> Doubt | None:
    """The first number that is farther from the evidence than roundings go."""
    pairs = {name: (x, expected[name]) for name, x in got.items() if name in expected}
    if OF_PROGRAM in expected:
        pairs = {OF_PROGRAM: (expected[OF_PROGRAM], expected["slope"])} | pairs
    for name, pair in pairs.items():
        ours, theirs = (each.detach() for each in _without_nan(*pair))  # of other parameters they may have a graph
        difference, size = apart(ours, theirs), length(theirs)
        if difference <= (tolerance * size + floors.get(name, 0.0) if math.isfinite(size) else 0):
            continue
        if any(spread.explains("slope" if name == OF_PROGRAM else name, difference) for spread in spreads):
            continue
        if ours.ndim:
            return Doubt(f"the {name} is off by {difference:.3g}, and its norm is {size:.3g}")
        what = f"the {name} is {float(ours):.9g}, and by PyTorch's own derivatives {float(theirs):.9g}"
        return Doubt(what, name == OF_PROGRAM)
    return None


def _without_nan(got: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """The two without the entries where PyTorch gives NaN, with which nothing can be compared."""
    nan = expected.isnan()
    if not nan.any():
        return got, expected
    return torch.where(nan, 0, got), torch.where(nan, 0, expected)
