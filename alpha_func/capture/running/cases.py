"""What each scheme is proven with: the names of its numbers, and the evidence, the best first."""

from collections.abc import Callable, Sequence

from torch import Tensor

from alpha_func.capture.running.evidence import FROM_DESCENT, GRADIENT, Numbers, Witness
from alpha_func.capture.running.points import Point
from alpha_func.capture.running.proof import Candidate, Case, Route
from alpha_func.capture.tracing.roundings import seeded

_LINE = "value", "slope", "curvature"


def quadratic(witness: Witness, direction: Sequence[Tensor]) -> Case:
    """The case of the Taylor program."""
    own = Witness.of_loss_frugally
    routes = own, Witness.forward, Witness.reverse
    return Case(_LINE, witness, direction, routes, Witness.slope, [own])


def product(witness: Witness, direction: Sequence[Tensor]) -> Case:
    """The case of the Taylor program beside double backward of the primitives."""
    return Case(_LINE, witness, direction, [Witness.reverse], Witness.slope)


def descent(witness: Witness, proven: Candidate | None = None) -> Case:
    """The case of the program along −g.

    Args:
        witness: of the call.
        proven: the Taylor program, where it has been proven.
    """
    names = [*_LINE, *map(GRADIENT.format, witness.names), FROM_DESCENT]
    own = [*_by_proven(witness, proven), Witness.of_loss]
    return Case(names, witness, None, [*own, Witness.reverse], Witness.gradient, own)


def gradient(witness: Witness) -> Case:
    """The case of the gradient program."""
    names = ["value", *map(GRADIENT.format, witness.names)]
    return Case(names, witness, None, [Witness.gradient, Witness.reverse], Witness.gradient, [Witness.gradient])


def line(witness: Witness, direction: Sequence[Tensor], proven: Candidate | None = None) -> Case:
    """The case of the line's program, with the gradient's before it; ``proven`` as for ``descent``."""
    own = [*_by_proven(witness, proven), Witness.of_loss]
    return Case(_LINE[1:], witness, direction, [*own, Witness.reverse], Witness.gradient, own)


def _by_proven(of: Witness, taylor: Candidate | None) -> list[Route]:
    """The loss's own gradient, and the curvature along the line by a Taylor program that is known to be right."""
    if taylor is None:
        return []

    def route(witness: Witness, at: Point) -> Numbers:
        found = witness.gradient(at)
        d = at.direction or [-found[GRADIENT.format(name)] for name in witness.names]
        run = taylor.run if witness is of else taylor.finished()
        with seeded(witness.seed):
            return found | {"curvature": run(*at.inputs, *d)[2]}

    return [route]


def gauss_newton(witness: Witness, direction: Sequence[Tensor]) -> Case:
    """The case of a Gauss-Newton program; differences along the line are not of its curvature."""
    witness.require_natural()
    case = Case(_LINE, witness, direction, [Witness.gauss_newton], Witness.slope)
    case.votes = False
    return case


def taylor(witness: Witness, direction: Sequence[Tensor], order: int) -> Case:
    """The case of a Taylor program of higher order."""
    names = [*_LINE, *(f"derivative of order {j}" for j in range(3, order + 1))]

    def of(numbers: Callable[[Witness, Point, int], Sequence[Tensor]]) -> Route:
        return lambda witness, at: dict(zip(names, numbers(witness, at, order), strict=True))

    routes = of(Witness.reverse_to), of(Witness.forward_to)  # reverse mode takes half the time, and keeps more
    return Case(names, witness, direction, routes if witness.keeps_little else routes[::-1], Witness.slope)
