"""What a program's quadratic is, by a vote at each point and along each direction that a check asks about.

Every number, and Hd and the gradient, has its own vote (``derivatives``): double backward's is the truth where
differences confirm it to what a check resolves. Where they part, PyTorch's own derivative is wrong, if the differences
converge, from both sides and down to the finest steps, and differences decide; if not, there is no truth to part from.
What each outcome is called is a ``Kind``.
"""

import math
import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.verification.fuzzing.derivatives import Differences, DoubleBackward, Line, Quotient, Tree, largest
from tests.verification.fuzzing.program import Program, widened

_CERTAIN = 1e-2  # of a number: rounding that carries it farther leaves no truth
_NAMES = ("value", "slope", "curvature")


class Kind(StrEnum):
    """How the vote ended."""

    OK = "ok"
    KINK = "kink"  # no second derivative there: nothing to be wrong about
    PYTORCH_WRONG = "pytorch_wrong"  # a number of double backward's is not the derivative
    PYTORCH_RAISES = "pytorch_raises"  # it has none: differences alone
    NOT_FINITE = "not_finite"  # it is not finite, and the derivative is: differences alone
    UNUSABLE = "unusable"  # neither


class Point(NamedTuple):
    """Where a vote is held, in the program's own dtypes."""

    params: Tree
    direction: Tree
    args: Sequence[Tensor]


class Number(NamedTuple):
    """A number, or a tensor of them, what the vote leaves open of it, and PyTorch's, where that is another."""

    is_: Tensor
    open: float = 0.0
    by_pytorch: Tensor | None = None


class Truth:
    """The vote at a point, along a direction.

    Attributes:
        kind: how it ended.
        numbers: by name, those that are known: "value", "slope", "curvature", "Hd", "gradient".
        scale: of the numbers together.
    """

    def __init__(self, program: Program, point: Point):
        self._program, self._point = program, point
        self._own: DoubleBackward | None = None
        self._finite: dict[str, bool] = {}
        with program.defaults(in_float64=True):
            params, direction = ({name: widened(t) for name, t in tree.items()} for tree in point[:2])
            loss, args = program.built(in_float64=True).loss, [widened(a) for a in point.args]
            self._line = Line(loss, params, direction, args)
            self.kind, self.numbers = self._voted()
        self.scale = _scale(self.numbers)

    def _voted(self) -> tuple[Kind, dict[str, Number]]:
        self._own, found = attempt(self._line.double_backward), attempt(self._line.differences)
        if self._own is None or not self._own.is_finite:
            numbers = self._by_differences(found) if found is not None else {}
            kind = Kind.PYTORCH_RAISES if self._own is None else Kind.NOT_FINITE
            return (kind, numbers) if numbers else (Kind.UNUSABLE, {})
        numbers = {name: Number(number) for name, number in self._own.numbers.items()}
        if found is None or not found.by_gradients:
            return Kind.KINK, numbers
        return self._confirmed(numbers, found)

    def _confirmed(self, own: dict[str, Number], found: Differences) -> tuple[Kind, dict[str, Number]]:
        """Double backward's numbers, each as differences say of it."""
        numbers, parted, scale = dict(own), dict[str, Number](), _scale(own)
        for name, quotient in [*found.by_values.items(), *found.by_gradients.items()]:
            its = own[name].is_
            gap, resolved = largest(its - quotient.is_), _resolution(largest(its), scale)
            if not gap <= resolved + 3 * quotient.error:
                parted[name] = _open(quotient, its)
            elif gap > resolved:
                numbers[name] = Number(its, max(gap, numbers[name].open))
        if not parted:
            return Kind.OK, numbers
        wrong_gradient = "slope" in parted
        if not self._is_derivative(found, wrong_gradient):
            return Kind.KINK, own
        if wrong_gradient:  # nor are its differences a derivative
            parted["curvature"] = _open(found.by_values["curvature"], own["curvature"].is_)
            parted["gradient"] = Number(self._line.gradient(), 1e-6 * scale, own["gradient"].is_)
            numbers.pop("Hd"), parted.pop("Hd", None)
        return Kind.PYTORCH_WRONG, numbers | parted

    def _by_differences(self, found: Differences) -> dict[str, Number]:
        """Where PyTorch has no second derivative."""
        quotients = found.by_values | found.by_gradients
        if not quotients or not math.isfinite(found.value) or not self._is_derivative(found):
            return {}
        numbers = {name: _open(quotient) for name, quotient in quotients.items()}
        if found.gradient.isfinite().all():
            numbers["gradient"] = Number(found.gradient)
            numbers.setdefault("slope", Number(found.gradient @ self._line.d))
        return {"value": Number(torch.tensor(found.value, dtype=torch.float64)), **numbers}

    def _is_derivative(self, found: Differences, wrong_gradient: bool = False) -> bool:
        """Whether differences of values and of gradients give the same, and hold at finer steps."""
        by_values, by_gradients = found.by_values, dict[str, Quotient]()
        if not wrong_gradient:
            by_gradients = {"slope": Quotient(found.gradient @ self._line.d, 0.0)} | found.by_gradients
        for name in by_values.keys() & by_gradients.keys():
            one, other = by_values[name], by_gradients[name]
            gap, size = largest(one.is_ - other.is_), largest(one.is_)
            if gap > 3 * (one.error + other.error) + _resolution(size, abs(found.value) + size):
                return False
        slope, curvature = (by_gradients | by_values)["slope"], (by_values | by_gradients)["curvature"]
        return self._line.is_limit(float(slope.is_), float(curvature.is_)) and self._is_quadratic(
            curvature, wrong_gradient
        )

    def _is_quadratic(self, along: Quotient, wrong_gradient: bool) -> bool:
        """Whether curvatures are of one quadratic form q: q(d + e) + q(d − e) = 2·q(d) + 2·q(e). Not so of |xy|."""
        for seed in range(3):
            e = self._line.other_direction(seed)
            found = [self._line.along(e, sign).differences() for sign in (0, 1, -1)]
            of_each = [each.by_values | ({} if wrong_gradient else each.by_gradients) for each in found]
            if any("curvature" not in quotients for quotients in of_each):
                return False
            (q, error), *sums = ((float(number), error) for number, error in (of["curvature"] for of in of_each))
            gap = sum(number for number, _ in sums) - 2 * q - 2 * float(along.is_)
            errors = 2 * (error + along.error) + sum(error for _, error in sums)
            if not abs(gap) <= 3 * errors + 1e-4 * (abs(q) + abs(float(along.is_))):
                return False
        return True

    # What a check may be off by

    def tolerance(self, name: str) -> float:
        """Of a check."""
        number = self.numbers[name]
        size = largest(number.is_)
        if not self._program.is_rough:
            return _resolution(size, self.scale) + number.open
        return 3e-3 * size + 3e-4 * self.scale + 50 * self._low[1] + number.open

    @property
    def is_finite(self) -> bool:
        """Whether double backward is, in the program's own dtypes."""
        return self._low[0]

    def is_finite_by(self, strategy: str) -> bool:
        """Whether a strategy of torch.func is, in the program's own dtypes."""
        if strategy not in self._finite:
            with self._program.defaults():
                line = Line(self._program.built().loss, *self._point)
                found = attempt(lambda: line.by(strategy))
            self._finite[strategy] = found is not None and bool(found.isfinite().all())
        return self._finite[strategy]

    def rounding(self, name: str) -> float:
        """How far rounding may carry a number at a singular point; infinite where so far that there is no truth."""
        number, most = self.numbers[name], 1e4 * self._spread.get(name, 0.0)
        return most if most <= _CERTAIN * (largest(number.is_) + self.scale) else math.inf

    @cached_property
    def _low(self) -> tuple[bool, float]:
        """Double backward in the program's own dtypes: whether it is finite, and how far from that in float64."""
        if self._own is None or not self._own.is_finite:
            return False, 1e-2 * self.scale
        if not self._program.is_rough:
            return True, 0.0
        with self._program.defaults():
            low = attempt(Line(self._program.built().loss, *self._point).double_backward)
        if low is None or not low.is_finite:
            return False, 1e-2 * self.scale
        return True, max(largest(low.numbers[name] - self._own.numbers[name]) for name in _NAMES)

    @cached_property
    def _spread(self) -> dict[str, float]:
        """How far double backward's numbers go when parameters are off by 1e-13; not those that are not its own."""
        if self._own is None or not self._own.is_finite:
            return {}
        found = dict.fromkeys(self._own.numbers, 0.0)
        with self._program.defaults(in_float64=True):
            for seed in range(3):
                again = attempt(self._line.shaken(seed).double_backward)
                for name, number in again.numbers.items() if again else ():
                    found[name] = max(found[name], largest(number - self._own.numbers[name]))
        return {
            name: most for name, most in found.items() if (its := self.numbers.get(name)) and its.by_pytorch is None
        }


class Reference:
    """The votes on a program.

    Attributes:
        point: of its call.
        truth: the vote there.
    """

    def __init__(self, program: Program):
        self.program = program
        with program.defaults():
            self.point = Point(*program.built()[1:])
        self._votes: dict[Any, Truth] = {}
        self.truth = self.at(*self.point)

    @property
    def kind(self) -> Kind:
        """How the vote at the call ended."""
        return self.truth.kind

    def at(self, params: Tree, direction: Tree, args: Sequence[Tensor]) -> Truth:
        """The vote at another point, or along another direction."""
        tensors = [*params.values(), *direction.values(), *args]
        key = tuple((t.dtype, t.shape, str(t.reshape(-1).tolist())) for t in tensors)
        if key not in self._votes:
            self._votes[key] = Truth(self.program, Point(params, direction, args))
        return self._votes[key]

    def directions(self) -> list[Tree]:
        """The program's own, and two more."""
        draw = random.Random(1)
        own = self.point.direction
        return [own, *({name: _gauss(draw, d) for name, d in own.items()} for _ in range(2))]


def attempt(function: Callable[[], Any]) -> Any:
    """What the function returns; None where it raises. Only for references: what cannot be computed says nothing."""
    try:
        return function()
    except Exception:
        return None


def _resolution(size: float, scale: float) -> float:
    """What a check, and a vote, tells from zero."""
    return 1e-6 * size + 1e-8 * scale


def _scale(numbers: dict[str, Number]) -> float:
    return 1e-3 + sum(abs(float(numbers[name].is_)) for name in _NAMES if name in numbers)


def _open(quotient: Quotient, by_pytorch: Tensor | None = None) -> Number:
    return Number(quotient.is_, 3 * quotient.error, by_pytorch)


def _gauss(draw: random.Random, like: Tensor) -> Tensor:
    numbers = [draw.gauss(0, 1) for _ in range(like.numel())]
    return torch.tensor(numbers, dtype=torch.float64).reshape(like.shape).to(like.dtype)
