"""A scheme proven at its first use: its numbers against independent routes over the loss itself (``evidence``).

    as it runs   in the precision of the call, against the loss's own double backward, or its primitives'; a large
                 program's roundings, seen in runs with others, may explain a difference
    in double    where that says too little, for roundings: the finished program in float64 against the same evidence
                 in float64, and then as it runs against these numbers and the loss's own first derivatives

Neither goes through the rules, laws and passes that a scheme is made by. A program in float64 is both at once; in
float32 two orders of one derivative as a rule agree to what float64 would say of them, at a third of its price, and at
half of its memory. An adjoint is compared with the Taylor program, where that was proven before it, and with the
loss's own gradient. Each proof is one run of the scheme and one of its evidence, and in double as many again. The first
call is compared at its own values, with their zeros and ties. The second, before the scheme is trusted with any
others, at parameters a little away from its own and along a random direction, where an error that a call's values hide
has nowhere to vanish (a zero direction, a stationary point, a layer that begins at zero). Where two numbers differ by
more than roundings explain, differences of the loss decide between the two (``vote``). At a tie two derivatives may
both be right; PyTorch's own is kept.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, fx

from alpha_func.capture.running.backends import Runnable
from alpha_func.capture.running.difference import Doubt, Rounded, Roundings, Shaken, Spread, finite, first_doubt, floors
from alpha_func.capture.running.evidence import FROM_DESCENT, OF_PROGRAM, Numbers, Witness
from alpha_func.capture.running.points import NoEvidence, Point, values_of
from alpha_func.capture.running.vote import Side, vote
from alpha_func.capture.tracing.agreement import aside
from alpha_func.capture.tracing.roundings import apart, coarsest, seeded
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
        own: those of the routes that have the loss's own first derivatives, and not only its program's.

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
        own: Sequence[Route] = (),
    ):
        self.misled, self.votes = False, True
        self._answer: list[Tensor] = []
        self._names, self._witness, self._routes, self._first_order = names, witness, routes, first_order
        self._own = own
        self._points = {(witness, False): Point(witness.inputs, None if direction is None else values_of(direction))}
        self._found: dict[tuple[Witness, Route, bool], Numbers | None] = {}

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
            witness = self._witness
            point = self._point(witness, away)
            self._answer = self._outputs(candidate.run, point)
            got = self._read(self._answer)
            if not witness.is_narrow:
                return self._judged(got, witness, _EXACT, candidate.written, away=away, votes=self.votes)[0]
            if coarsest(point.inputs) < _CLOSE and self._is_close(got, candidate, away):
                return None
            exact = None
            with suppress(Exception):  # an operator without a kernel in float64, memory
                exact = self._numbers(candidate.finished(), self._point(witness.in_double, away))
            if exact is not None:
                with suppress(NoEvidence):
                    return self._narrow(candidate, got, exact, away)
            return self._judged(got, witness, _NEAR * coarsest(point.inputs), candidate.written, away=away)[0]

    def answer(self, *_: object) -> Sequence[Tensor]:
        """What the scheme has given where it was compared."""
        return self._answer

    def _is_close(self, got: Numbers, candidate: Candidate, away: bool) -> bool:
        """Whether the evidence in the precision of the call says nothing else, roundings apart.

        How far these go is seen where double precision, which says it better, takes the memory of many values.
        """
        point = self._point(self._witness, away)
        roundings = Roundings(lambda p: self._numbers(p, point), candidate.written)
        spreads = () if self._witness.keeps_little else (roundings,)
        for route in self._routes:
            expected = self._evidence(self._witness, route, away)
            if expected is not None:
                if route not in self._own:
                    expected = self._with_first_order(expected, away)
                small = floors(expected, point, self._witness.count)
                return finite(expected) and first_doubt(got, expected, _CLOSE, spreads, small) is None
        return False

    def _narrow(self, candidate: Candidate, got: Numbers, exact: Numbers, away: bool) -> Doubt | None:
        """In double, and then as it runs."""
        witness, point = self._witness, self._point(self._witness, away)
        found, route = self._judged(exact, witness.in_double, _ROUNDED, None, away=away)
        if found is not None:
            with suppress(ArithmeticError, TypeError, ValueError, NotImplementedError):
                anew = candidate.anew()
                exact = self._numbers(anew, self._point(witness.in_double, away))
                found, route = self._judged(exact, witness.in_double, _EXACT, lambda: anew, away=away, votes=self.votes)
        if found is not None:
            return found
        spreads: list[Spread] = [Roundings(lambda p: self._numbers(p, point), candidate.written)]
        if route is not None:
            both = witness, witness.in_double
            spreads.insert(0, Rounded(lambda: [self._evidence(each, route, away) or {} for each in both]))
        tolerance = _NEAR * coarsest(point.inputs)
        found = first_doubt(got, exact, tolerance, spreads, floors(exact, point, witness.count))
        if found is not None or route in self._own:
            return found
        own = next(filter(None, (self._evidence(witness, each, away) for each in self._own)), None)
        if own is not None and not away:  # at a tie its second derivatives may be others
            own = {name: x for name, x in own.items() if name != "curvature"}
        own = own or self._evidence(witness, self._first_order, away)
        found = first_doubt(got, own or {}, tolerance, spreads, floors(exact, point, witness.count))
        in_double = witness.in_double, self._point(witness.in_double, away)
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
        point = self._point(witness, away)
        found = own = None
        for route in self._routes:
            expected = self._evidence(witness, route, away)
            # What is not finite says nothing: away from the call's point, or where another route gave numbers.
            if expected is None or ((away or own is not None) and not finite(expected)):
                continue
            spreads = Roundings(lambda p: self._numbers(p, point), written), Shaken(route, witness, point, expected)
            if route not in self._own and witness is self._witness:
                expected = self._with_first_order(expected, away)
            against = expected
            found = first_doubt(got, expected, tolerance, spreads, floors(expected, point, witness.count))
            if found is None:
                # A tie explains that the loss's own derivatives are others, and nothing does away from one.
                if own is None or route in self._own or witness is not self._witness or not (away and votes):
                    return None, route
                ours = _is_right(witness, point, got, own[1])
                return (None if ours else replace(own[0], of_program=True)), route
            if route in self._own:
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

    def _point(self, witness: Witness, away: bool) -> Point:
        key = witness, away
        if key not in self._points:
            own = self._points[self._witness, False]
            if witness is not self._witness:
                self._points[key] = self._point(self._witness, away).in_double()
            else:
                self._points[key] = own.away(witness.count)
        return self._points[key]

    def _numbers(self, run: Runnable, at: Point) -> Numbers:
        return self._read(self._outputs(run, at))

    def _outputs(self, run: Runnable, at: Point) -> list[Tensor]:
        with seeded(self._witness.seed):
            return list(run(*at.inputs, *(at.direction or ())))

    def _read(self, found: list[Tensor]) -> Numbers:
        numbers = dict(zip(self._names, found, strict=False))
        if FROM_DESCENT in numbers:
            n = self._witness.count
            pairs = zip(found[-2 * n : -n], found[-n:], strict=True)
            numbers[FROM_DESCENT] = torch.tensor(sum(apart(d, -g) for g, d in pairs))
        return numbers

    def _evidence(self, witness: Witness, route: Route, away: bool) -> Numbers | None:
        """What a route gives, computed once; None where it does not run."""
        key = witness, route, away
        if key not in self._found:
            try:
                self._found[key] = route(witness, self._point(witness, away))
            except Exception:  # an operator without this derivative, values that the loss refuses, memory
                self._found[key] = None
        return self._found[key]


def _is_right(witness: Witness, point: Point, got: Numbers, expected: Numbers) -> bool:
    """Whether differences, which hold what is detached, give the scheme's numbers and not the others."""
    may_vote = witness.is_known_wrong or not witness.detaches
    return may_vote and vote(witness, point, got, expected) is Side.SCHEME
