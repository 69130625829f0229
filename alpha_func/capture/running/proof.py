"""A scheme proven at its first use: its numbers against independent routes over the loss itself (``evidence``).

    as it runs   in the precision of the call, against the loss's own double backward, or its primitives'
    in double    where that says too little, for roundings: the finished program in float64 against the same evidence
                 in float64, and then as it runs against these numbers and the loss's own first derivatives

Neither goes through the rules, laws and passes that a scheme is made by. A program in float64 is both at once; in
float32 two orders of one derivative as a rule agree to what float64 would say of them, at a third of its price. The
first call is compared at its own values, with their zeros and ties. The second, before the scheme is trusted with any
others, at parameters a little away from its own and along a random direction, where an error that a call's values hide
has nowhere to vanish (a zero direction, a stationary point, a layer that begins at zero). Where two numbers differ by
more than roundings explain, differences of the loss decide between the two (``vote``). At a tie two derivatives may
both be right; PyTorch's own is kept.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, fx

from alpha_func.capture.running.backends import Runnable
from alpha_func.capture.running.difference import Doubt, Roundings, Shaken, finite, first_doubt, floors
from alpha_func.capture.running.evidence import GRADIENT, OF_PROGRAM, Numbers, Witness
from alpha_func.capture.running.points import NoEvidence, Point, values_of
from alpha_func.capture.running.vote import Side, vote
from alpha_func.capture.tracing.agreement import aside
from alpha_func.capture.tracing.roundings import coarsest, seeded
from alpha_func.errors import CaptureError
from alpha_func.losses.kernels import twice_differentiable

_CLOSE = 1e-5  # by which two orders of one derivative differ in float32, as a rule
_NEAR = 1024  # roundings by which two orders of one derivative differ without a second look
_EXACT = 1e-7  # the same in float64, in which a kernel here and there has its constants in float32 (hardsigmoid)
_ROUNDED = 1e-6  # the same, of a program that was written for less, whose constants are rounded

Route = Callable[[Witness, Point], Numbers]


class Candidate(NamedTuple):
    """A scheme as it is proven, each (*inputs, *directions) -> outputs.

    run: as it runs.    written: before the passes that finish it.    finished: after them, in double precision.
    anew: written of the loss in double precision, whose numbers nothing rounds.
    """

    run: Runnable
    written: Callable[[], fx.GraphModule]
    finished: Callable[[], Runnable]
    anew: Callable[[], fx.GraphModule]


class Case:
    """How one scheme is compared, at the values of a call and away from them.

    Args:
        names: of the outputs of the scheme.
        witness: of the call.
        direction: of the call, without transforms; None: −g.
        routes: the evidence, the next where the last fails or differs.
        first_order: the loss's own first derivatives.
        second_order: its own second derivatives, where they are one of the routes.

    Attributes:
        misled: whether PyTorch's derivatives of the program were found to be wrong, and the scheme's right.
        votes: whether differences are asked.
    """

    def __init__(
        self,
        names: Sequence[str],
        witness: Witness,
        direction: Sequence[Tensor] | None,
        routes: Sequence[Route],
        first_order: Route,
        second_order: Route | None = None,
    ):
        self.misled, self.votes = False, True
        self._names, self._witness, self._routes, self._first_order = names, witness, routes, first_order
        self._second_order = second_order
        self._points = {False: Point(witness.inputs, None if direction is None else values_of(direction))}
        self._found: dict[tuple[int, Route, bool], Numbers | None] = {}

    def doubt(self, candidate: Candidate, *, away: bool) -> Doubt | None:
        """What speaks against a scheme.

        Args:
            candidate: the scheme.
            away: whether to compare away from the call's own values.

        Raises:
            NoEvidence: no route runs at the call's own values.
            CaptureError: neither the scheme nor PyTorch agrees with differences of the loss.
        """
        with aside(), twice_differentiable():
            witness, point = self._witness, self._point(away)
            got = self._numbers(candidate.run, point)
            if not witness.is_narrow:
                return self._judged(got, witness, _EXACT, candidate.written, away=away, votes=self.votes)[0]
            if coarsest(point.inputs) < _CLOSE and self._is_close(got, away):
                return None
            exact = None
            with suppress(Exception):  # an operator without a kernel in float64, memory
                exact = self._numbers(candidate.finished(), point.in_double())
            if exact is not None:
                with suppress(NoEvidence):
                    return self._narrow(candidate, got, exact, away)
            return self._judged(got, witness, _NEAR * coarsest(point.inputs), candidate.written, away=away)[0]

    def _is_close(self, got: Numbers, away: bool) -> bool:
        """Whether the evidence in the precision of the call says nothing else, roundings apart."""
        for route in self._routes:
            expected = self._evidence(self._witness, route, away)
            if expected is not None:
                if route is not self._second_order:
                    expected = self._with_first_order(expected, away)
                return finite(expected) and first_doubt(got, expected, _CLOSE, (), {}) is None
        return False

    def _narrow(self, candidate: Candidate, got: Numbers, exact: Numbers, away: bool) -> Doubt | None:
        """In double, and then as it runs."""
        witness, point = self._witness, self._point(away)
        found, route = self._judged(exact, witness.in_double, _ROUNDED, None, away=away)
        if found is not None:
            with suppress(ArithmeticError, TypeError, ValueError, NotImplementedError):
                anew = candidate.anew()
                exact = self._numbers(anew, point.in_double())
                found, route = self._judged(exact, witness.in_double, _EXACT, lambda: anew, away=away, votes=self.votes)
        if found is not None:
            return found
        spreads = (Roundings(lambda p: self._numbers(p, point), candidate.written),)
        tolerance = _NEAR * coarsest(point.inputs)
        found = first_doubt(got, exact, tolerance, spreads, floors(exact, point, witness.count))
        if found is not None or (route is self._second_order and route is not None):
            return found
        own = self._evidence(witness, self._second_order, away) if self._second_order else None
        if own is not None and not away:  # at a tie its second derivatives may be others
            own = {name: x for name, x in own.items() if name != "curvature"}
        own = own or self._evidence(witness, self._first_order, away)
        found = first_doubt(got, own or {}, tolerance, spreads, floors(exact, point, witness.count))
        in_double = witness.in_double, point.in_double()
        if found is None or (self.votes and witness.is_known_wrong and _is_right(*in_double, exact, own or {})):
            return None
        return replace(found, of_program=True)

    def _judged(
        self,
        got: Numbers,
        witness: Witness,
        tolerance: float,
        written: Callable[[], fx.GraphModule] | None,
        *,
        away: bool,
        votes: bool = False,
    ) -> tuple[Doubt | None, Route | None]:
        """Numbers against the evidence in the same precision: a doubt, or the route that they agree with."""
        point = self._point(away) if witness is self._witness else self._point(away).in_double()
        found = own = None
        for route in self._routes:
            expected = self._evidence(witness, route, away)
            # What is not finite says nothing: away from the call's point, or where another route gave numbers.
            if expected is None or ((away or own is not None) and not finite(expected)):
                continue
            spreads = Roundings(lambda p: self._numbers(p, point), written), Shaken(route, witness, point, expected)
            if route is not self._second_order and witness is self._witness:
                expected = self._with_first_order(expected, away)
            against = expected
            found = first_doubt(got, expected, tolerance, spreads, floors(expected, point, witness.count))
            if found is None:
                # A tie explains that the loss's own derivatives are others, and nothing does away from one.
                if own is None or witness is not self._witness or not (away and votes):
                    return None, route
                ours = _is_right(witness, point, got, own[1])
                return (None if ours else replace(own[0], of_program=True)), route
            if route is self._second_order:
                own = found, expected
        if found is None and not away:
            raise NoEvidence("PyTorch cannot differentiate it twice here", lasting=True)
        if found is None or not votes:
            return found, None
        if found.of_program:  # the loss's own first derivatives are others: on purpose (hooks), or by a wrong formula
            ours = witness.is_known_wrong and _is_right(witness, point, got, against)
            return (None if ours else found), None
        return self._by_vote(witness, point, got, against, found), None

    def _by_vote(self, witness: Witness, point: Point, got: Numbers, expected: Numbers, found: Doubt) -> Doubt | None:
        if any(
            not x.isfinite().all() and expected[name].isfinite().all() for name, x in got.items() if name in expected
        ):
            return replace(found, of_program=True)  # no worse than the loss as it was given
        side = vote(witness, point, got, expected)
        if side is Side.NEITHER:
            raise CaptureError(
                f"{found.what}, and finite differences of the loss agree with neither: it may have no second "
                "derivative here; compare with alpha_func.check_quadratic, and please report it"
            )
        self.misled |= side is Side.SCHEME
        return None if side is Side.SCHEME else found

    def _with_first_order(self, numbers: Numbers, away: bool) -> Numbers:
        """The primitives' numbers, the first derivatives those of the loss itself."""
        own = self._evidence(self._witness, self._first_order, away)
        if own is None:
            return numbers
        return numbers | {OF_PROGRAM: numbers["slope"]} | own if "slope" in own else numbers | own

    def _point(self, away: bool) -> Point:
        if away not in self._points:
            self._points[away] = self._points[False].away(self._witness.count)
        return self._points[away]

    def _numbers(self, run: Runnable, at: Point) -> Numbers:
        with seeded(self._witness.seed):
            return dict(zip(self._names, run(*at.inputs, *(at.direction or ())), strict=False))

    def _evidence(self, witness: Witness, route: Route, away: bool) -> Numbers | None:
        """What a route gives, computed once; None where it does not run."""
        key = id(witness), route, away
        if key not in self._found:
            point = self._point(away)
            try:
                self._found[key] = route(witness, point if witness is self._witness else point.in_double())
            except Exception:  # an operator without this derivative, values that the loss refuses, memory
                self._found[key] = None
        return self._found[key]


def _is_right(witness: Witness, point: Point, got: Numbers, expected: Numbers) -> bool:
    """Whether differences give the scheme's numbers, and not the others; they see through ``detach``."""
    return not witness.detaches and vote(witness, point, got, expected) is Side.SCHEME


def quadratic(witness: Witness, direction: Sequence[Tensor]) -> Case:
    """The case of the Taylor program."""
    own = Witness.of_loss_frugally
    routes = (own, Witness.forward, Witness.reverse)
    return Case(("value", "slope", "curvature"), witness, direction, routes, Witness.slope, own)


def product(witness: Witness, direction: Sequence[Tensor]) -> Case:
    """The case of the Taylor program beside double backward of the primitives."""
    return Case(("value", "slope", "curvature"), witness, direction, (Witness.reverse,), Witness.slope)


def descent(witness: Witness) -> Case:
    """The case of the program along −g."""
    names = [what.format(name) for what in (GRADIENT, "direction of {}") for name in witness.names]
    own = Witness.of_loss
    routes = (own, Witness.reverse)
    return Case(("value", "slope", "curvature", *names), witness, None, routes, Witness.gradient, own)


def gradient(witness: Witness) -> Case:
    """The case of the gradient program."""
    names = ["value", *map(GRADIENT.format, witness.names)]
    return Case(names, witness, None, (Witness.gradient, Witness.reverse), Witness.gradient, Witness.gradient)


def line(witness: Witness, direction: Sequence[Tensor]) -> Case:
    """The case of the line's program, with the gradient's before it."""
    own = Witness.of_loss
    return Case(("slope", "curvature"), witness, direction, (own, Witness.reverse), Witness.gradient, own)


def gauss_newton(witness: Witness, direction: Sequence[Tensor]) -> Case:
    """The case of a Gauss-Newton program; differences along the line are not of its curvature."""
    witness.require_natural()
    case = Case(("value", "slope", "curvature"), witness, direction, (Witness.gauss_newton,), Witness.slope)
    case.votes = False
    return case


def taylor(witness: Witness, direction: Sequence[Tensor], order: int) -> Case:
    """The case of a Taylor program of higher order."""
    names = ["value", "slope", "curvature", *(f"derivative of order {j}" for j in range(3, order + 1))]

    def of(numbers: Callable[[Witness, Point, int], Sequence[Tensor]]) -> Route:
        return lambda witness, at: dict(zip(names, numbers(witness, at, order), strict=True))

    routes = of(Witness.reverse_to), of(Witness.forward_to)  # reverse mode takes half the time, and keeps more
    return Case(names, witness, direction, routes if witness.keeps_little else routes[::-1], Witness.slope)
