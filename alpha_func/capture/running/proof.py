"""A scheme proven at its first use: its numbers against an independent route over the loss itself.

    first order    value and slope, or gradient, of the loss as it was given, by PyTorch's first derivatives
    second order   the curvature of its program in primitives: jvp of jvp beside the Taylor program, which keeps no
                   activations either; double backward beside the adjoint, and where jvp of jvp fails or differs

Neither goes through the rules, laws and passes that a scheme is made by. The first call is compared at its own values,
with their zeros and ties. The second, before the scheme is trusted with any others, at parameters a little away from
its own and along a random direction, where an error that a call's values hide has nowhere to vanish (a zero direction,
a stationary point, a layer that begins at zero). Where two numbers differ by more than roundings explain, the scheme is
not the loss's. At a tie two derivatives may both be right; PyTorch's own is kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, func, fx

from alpha_func import tree
from alpha_func.capture.running.backends import Runnable
from alpha_func.capture.tracing.agreement import aside
from alpha_func.capture.tracing.outside import values
from alpha_func.capture.tracing.roundings import apart, coarsest, disturbed, in_double, seeded
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.transforms.engine import Args, Kwargs
from alpha_func.transforms.validation import scalar_loss
from alpha_func.tree import Tree

Numbers = dict[str, Tensor]  # value, slope, curvature, and the gradient of each parameter by its name

_NEAR = 1024  # roundings by which two orders of one derivative differ without a second look
_RUNS = 3
_SIZE = 16  # of the roundings: those of a sum of a few hundred terms, near enough to a kink to fall on either side
_FAR = 8  # spreads under such roundings that two orders of one derivative may lie apart
_OF_PROGRAM = "slope of the program itself"
_AWAY = 0.1  # how far the second point lies from the first, relative to each parameter


class NoEvidence(Exception):  # noqa: N818  not an error
    """No independent route runs here: the tensors have no values, or PyTorch cannot differentiate the program.

    lasting: whether none will run at a later call either.
    """

    def __init__(self, what: str, *, lasting: bool):
        super().__init__(what)
        self.lasting = lasting


@dataclass(frozen=True)
class Point:
    """Where numbers are compared: inputs of the program, and the direction; all without transforms."""

    inputs: list[Tensor]
    direction: list[Tensor] | None  # None: −g

    def away(self, params: int) -> "Point":
        """Other parameters near these, and a random direction of their size; the same at every call."""
        noise = torch.Generator().manual_seed(0)
        moved, directions = list(self.inputs), []
        for i, θ in enumerate(self.inputs[:params]):
            r, u = (torch.randn(θ.shape, generator=noise).clamp(-3, 3).to(θ) for _ in range(2))
            size = θ.abs().mean() if θ.numel() else θ.sum()
            scale = torch.where(size > 0, size, torch.full_like(size, _AWAY))
            moved[i] = torch.where(θ != 0, θ * (1 + _AWAY * r), _AWAY * scale * r)
            directions.append(u * scale)
        return Point(moved, None if self.direction is None else directions)


class Witness:
    """The independent routes over one call.

    Args:
        loss: the loss as it was given.
        primitives: its program in primitives, (*inputs) -> value.
        seed: of the program's draws.
        call: its parameters, args and kwargs, possibly under transforms.
        inputs: of the program, likewise.

    Raises:
        NoEvidence: there are no values to compute with.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        primitives: Callable[..., Tensor],
        seed: int | None,
        call: tuple[Tree, Args, Kwargs],
        inputs: list[Tensor],
    ):
        params, args, kwargs = call
        self.inputs = values_of(inputs)
        self._seed, self._primitives = seed, primitives
        # CUDA's own dropout has another mask than that of a program.
        self._draws_otherwise = seed is not None and any(tensor.is_cuda for tensor in self.inputs)
        self._structure = tree.structure(params)
        self.names = [f"params{path}" for path, _ in tree.named_leaves(params)]
        args, kwargs = tree.map(lambda v: values(v) if isinstance(v, Tensor) else v, (args, kwargs))
        self._loss = scalar_loss(loss, args, kwargs)

    @property
    def count(self) -> int:
        """How many parameters."""
        return len(self.names)

    def forward(self, at: Point) -> Numbers:
        """Value, slope and curvature by forward derivatives."""
        leaves, rest, d = tuple(at.inputs[: self.count]), at.inputs[self.count :], tuple(at.direction or ())

        def slope(*leaves: Tensor) -> Tensor:
            return func.jvp(lambda *x: self._program(*x, *rest), leaves, d)[1]

        value, first = func.jvp(lambda *x: self._value(list(x), rest), leaves, d)  # type: ignore[misc]
        program_slope, curvature = func.jvp(slope, leaves, d)  # type: ignore[misc]
        return {"value": value, "slope": first, _OF_PROGRAM: program_slope, "curvature": curvature}

    def gradient(self, at: Point) -> Numbers:
        """Value, and the gradient of each parameter."""
        with torch.enable_grad():
            leaves = [leaf.clone().requires_grad_() for leaf in at.inputs[: self.count]]
            value = self._value(leaves, at.inputs[self.count :])
            grads = _gradient(value, leaves)
        return {"value": value.detach(), **{f"gradient of {n}": g for n, g in zip(self.names, grads, strict=True)}}

    def reverse(self, at: Point) -> Numbers:
        """All of it, by backward derivatives."""
        found = self.gradient(at)
        grads = [found[f"gradient of {name}"] for name in self.names]
        d = at.direction or [-g for g in grads]
        with torch.enable_grad():
            leaves = [leaf.clone().requires_grad_() for leaf in at.inputs[: self.count]]
            program_grads = _gradient(self._program(*leaves, *at.inputs[self.count :]), leaves, create_graph=True)
            program_slope = tree.vdot(d, program_grads)
            hd = _gradient(program_slope, leaves)
        if at.direction is None:
            found |= {f"direction of {name}": step for name, step in zip(self.names, d, strict=True)}
        found |= {"slope": tree.vdot(d, grads), _OF_PROGRAM: program_slope.detach(), "curvature": tree.vdot(d, hd)}
        return found

    def _value(self, leaves: list[Tensor], rest: list[Tensor]) -> Tensor:
        if self._draws_otherwise:
            return self._program(*leaves, *rest)
        return self._loss(tree.unflatten(leaves, self._structure))

    def _program(self, *inputs: Tensor) -> Tensor:
        with seeded(self._seed):
            return self._primitives(*inputs)


def _gradient(value: Tensor, leaves: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(value, leaves, create_graph=create_graph, materialize_grads=True))


def values_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The values beneath transforms, one example of a batch."""
    found = [values(tensor) for tensor in tensors]
    kept = [tensor for tensor in found if tensor is not None]
    if len(kept) < len(found):
        raise NoEvidence("the tensors have no values", lasting=False)
    return kept


@dataclass(frozen=True)
class Doubt:
    """Why a scheme is not taken for the loss's: a number that parts from the evidence, or an error.

    what: which number, and by how much; or the error.    of_program: whether the program itself is not the loss.
    """

    what: str
    of_program: bool = False


class Case:
    """How one scheme is compared, at the values of a call and away from them.

    Args:
        numbers: ``(run, point) -> Numbers``, the outputs of the scheme there by their names.
        point: the call's own values.
        params: how many parameters.
        routes: the evidence, ``(point) -> Numbers``; the next where the last fails or differs.

    Attributes:
        whole: the case of the scheme with the one before it.
    """

    def __init__(
        self,
        numbers: Callable[[Runnable, Point], Numbers],
        point: Point,
        params: int,
        *routes: Callable[[Point], Numbers],
    ):
        self.whole = self
        self._numbers, self._point, self._params, self._routes = numbers, point, params, routes
        self._found: dict[tuple[int, bool], Numbers | None] = {}

    def doubt(self, run: Runnable, written: Callable[[], fx.GraphModule], *, away: bool) -> Doubt | None:
        """What speaks against a scheme.

        Args:
            run: the scheme as it will run.
            written: the program of the whole, which is rounded anew where two numbers are not near.
            away: whether to compare away from the call's own values.

        Raises:
            NoEvidence: no route runs at the call's own values.
        """
        got: Numbers | None = None
        spread: dict[str, float] | None = None
        found = None
        with aside():
            point = self._away if away else self._point
            for i in range(len(self._routes)):
                expected = self._evidence(i, away)
                if expected is None or (away and not all(x.isfinite().all() for x in expected.values())):
                    continue
                got = got or self._numbers(run, point)
                far = _far(got, expected, _NEAR * coarsest(point.inputs))
                if far and spread is None:
                    spread = self.whole._spread(point, written)
                found = next(filter(None, (_unexplained(name, got, expected, spread or {}) for name in far)), None)
                if found is None:
                    return None
        if got is None and not away:
            raise NoEvidence("PyTorch cannot differentiate it twice here", lasting=True)
        return found

    @cached_property
    def _away(self) -> Point:
        return self._point.away(self._params)

    def _evidence(self, route: int, away: bool) -> Numbers | None:
        """What a route gives, computed once; None where it does not run."""
        if (route, away) not in self._found:
            try:
                with twice_differentiable():
                    self._found[route, away] = self._routes[route](self._away if away else self._point)
            except Exception:  # an operator without this derivative, values that the loss refuses, memory
                self._found[route, away] = None
        return self._found[route, away]

    def _spread(self, point: Point, written: Callable[[], fx.GraphModule]) -> dict[str, float]:
        """How far each number goes under roundings; nothing where the program does not run as it was written."""
        try:
            program = written()
            exact = self._numbers(program, point)
            runs = [self._numbers(run, point) for run in disturbed(program, _RUNS, _SIZE)]
        except Exception:
            return {}
        return {name: max(apart(run[name], x) for run in runs) for name, x in exact.items()}


def _far(got: Numbers, expected: Numbers, tolerance: float) -> list[str]:
    """The numbers that are not as near as roundings go without a second look."""
    far = [name for name in got if not _near(got[name], expected[name], tolerance)]
    ours, theirs = (expected.get(name) for name in (_OF_PROGRAM, "slope"))
    if ours is not None and theirs is not None and not _near(ours, theirs, tolerance):
        far.insert(0, _OF_PROGRAM)
    return far


def _near(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    got, expected = (each.detach() for each in _said(got, expected))  # of other parameters they may have a graph
    size = float(in_double(expected).norm()) if expected.ndim else abs(float(expected))
    return apart(got, expected) <= (tolerance * size if math.isfinite(size) else 0)


def _unexplained(name: str, got: Numbers, expected: Numbers, spread: dict[str, float]) -> Doubt | None:
    of_program = name == _OF_PROGRAM
    number = "slope" if of_program else name
    said = _said((expected if of_program else got)[name], expected[number])
    ours, theirs = (each.detach() for each in said)
    difference = apart(ours, theirs)
    if difference <= _FAR * spread.get(number, 0.0):  # not so for a NaN
        return None
    if ours.ndim:
        return Doubt(f"the {name} is off by {difference:.3g} of {float(in_double(theirs).norm()):.3g}")
    return Doubt(f"the {name} is {float(ours):.9g}, by PyTorch's own derivatives {float(theirs):.9g}", of_program)


def _said(got: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """The two without the entries where PyTorch gives NaN, which say nothing."""
    nan = expected.isnan()
    if not nan.any():
        return got, expected
    return torch.where(nan, 0, got), torch.where(nan, 0, expected)


def quadratic(witness: Witness, direction: Sequence[Tensor]) -> Case:
    """The case of the Taylor program."""

    def numbers(run: Runnable, at: Point) -> Numbers:
        return dict(zip(("value", "slope", "curvature"), run(*at.inputs, *(at.direction or ())), strict=True))

    return Case(numbers, Point(witness.inputs, values_of(direction)), witness.count, witness.forward, witness.reverse)


def descent(witness: Witness) -> Case:
    """The case of the program along −g."""

    def numbers(run: Runnable, at: Point) -> Numbers:
        value, slope, curvature, *rest = run(*at.inputs)
        named = [f"{what} of {name}" for what in ("gradient", "direction") for name in witness.names]
        return {"value": value, "slope": slope, "curvature": curvature, **dict(zip(named, rest, strict=True))}

    return Case(numbers, Point(witness.inputs, None), witness.count, witness.reverse)


def gradient(witness: Witness) -> Case:
    """The case of the gradient program."""

    def numbers(run: Runnable, at: Point) -> Numbers:
        value, *rest = run(*at.inputs)
        return {"value": value, **{f"gradient of {name}": g for name, g in zip(witness.names, rest, strict=False)}}

    return Case(numbers, Point(witness.inputs, None), witness.count, witness.gradient)


def line(witness: Witness, direction: Sequence[Tensor], gradient: Runnable | None) -> Case:
    """The case of the line's program, after a run of the gradient's; None: of both in one."""

    def numbers(run: Runnable, at: Point) -> Numbers:
        saved = at.inputs if gradient is None else gradient(*at.inputs)[1 + witness.count :]
        return dict(zip(("slope", "curvature"), run(*saved, *(at.direction or ())), strict=True))

    case = Case(numbers, Point(witness.inputs, values_of(direction)), witness.count, witness.reverse)
    if gradient is not None:
        case.whole = line(witness, direction, None)
    return case
