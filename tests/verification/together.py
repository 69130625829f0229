"""Samples of an operator, moved at once, and which of them is not as differences say."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

import alpha_func as af
from alpha_func import functional_loss
from alpha_func.capture import CapturedLoss
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.verified.differences import Differences
from tests.verification.operand_kinds import KINDS
from tests.verification.operator_cases import Operator
from tests.verification.sums import Given, Sum

_TOLERANCE = 1e-6
Run = Callable[..., af.Quadratic]


class Sample(NamedTuple):
    """An operator at a sample of a kind."""

    kind: str
    operator: Operator


class Place(NamedTuple):
    """Where the samples are moved, along what, and what differences say; None of a sample that is not smooth there."""

    kind: str
    theta: Tensor
    direction: Tensor
    given: Given
    truth: list[Differences | None]


class Together:
    """Samples as one loss, which is captured once for both sweeps and the values of all kinds."""

    def __init__(self, samples: Sequence[Sample], values: Sequence[str]):
        self.samples, self.values = samples, values
        self._sum = Sum([s.operator for s in samples])
        self._known: dict[str, list[tuple[float, float]] | str] = {}  # by PyTorch, at each place
        self._loss, self._params = functional_loss(self._sum, seed=self._sum.seed)

    def captured(self, *, strict: bool) -> CapturedLoss:
        """The captured loss; a strict one's sweeps answer or raise."""
        return af.capture(self._loss, strict=strict)

    @cached_property
    def places(self) -> list[Place]:
        """The samples' own, and those of the kinds that are other values of the generic ones."""
        noise = torch.Generator().manual_seed(self._sum.seed)
        direction = torch.randn(len(self._sum.theta), dtype=torch.float64, generator=noise)
        for span in self._sum.where:
            direction[span] /= direction[span].norm()
        own = self._place("", self._sum.theta.detach(), direction, self._sum.given, [True] * len(self.samples))
        units = [1 / t.scale if t else 1.0 for t in own.truth]
        own = own._replace(given=self._sum.weighed(own.given, units))
        own = own._replace(truth=[t and _scaled(t, unit) for t, unit in zip(own.truth, units, strict=True)])
        generic = [s.kind == "generic" for s in self.samples]
        others = [self._valued(kind, own, generic) for kind in self.values if all(own.truth)]
        return [own, *(place for place in others if any(place.truth))]

    def off(self, run: Run, captured: CapturedLoss) -> Iterator[tuple[str, str, str]]:
        """The kind, the verdict and the number of what is not as differences say.

        Raises:
            ArithmeticError: one of several samples is not a number.
        """
        for place in (self.places[0], *self.places):
            detail = self._off_at(run, captured, place, place.truth)
            if "nan" in detail and len(self.samples) > 1:
                raise ArithmeticError(detail)  # of one sample, and in every sum
            if detail:
                apart = [found for i in range(len(self.samples)) if (found := self._off_alone(run, captured, place, i))]
                yield from apart or [(place.kind or self.samples[0].kind, "wrong", detail)]

    def rules(self, captured: CapturedLoss) -> set[str]:
        """The operators of the program that have rules."""
        nodes = captured.program(self._params, self.places[0].given).graph.graph.nodes
        return {str(node.target) for node in nodes if node.target in RULES}

    def apart(self) -> "list[Together]":
        """The samples of each kind, or half of the only one."""
        kinds = {
            kind: [s for s in self.samples if s.kind == kind] for kind in dict.fromkeys(s.kind for s in self.samples)
        }
        half = len(self.samples) // 2
        parts = list(kinds.values()) if len(kinds) > 1 else [self.samples[:half], self.samples[half:]]
        return [Together(part, self.values) for part in parts if part]

    def _place(self, kind: str, theta: Tensor, direction: Tensor, given: Given, moves: list[bool]) -> Place:
        truth = self._sum.along(theta, direction, given)
        return Place(
            kind, theta, direction, given, [t if m and t.smooth else None for t, m in zip(truth, moves, strict=True)]
        )

    def _valued(self, kind: str, own: Place, generic: list[bool]) -> Place:
        """What is not smooth at such values stays where it is."""
        start = self._sum.valued(KINDS[kind])
        place = self._place(kind, start, own.direction, own.given._replace(start=start), generic)
        for span, truth in zip(self._sum.where, place.truth, strict=True):
            if truth is None:
                start[span] = own.theta[span]
        return place

    def _off_alone(self, run: Run, captured: CapturedLoss, place: Place, sample: int) -> tuple[str, str, str] | None:
        truth = place.truth[sample]
        alone = [truth if i == sample else None for i in range(len(self.samples))]
        detail = self._off_at(run, captured, place, alone) if truth is not None else ""
        if truth is None or not detail:
            return None
        by_pytorch = self._by_pytorch(place)
        own = by_pytorch if isinstance(by_pytorch, str) else _off(*by_pytorch[sample], [truth])
        kind = place.kind or self.samples[sample].kind
        return (kind, "inherited", f"{detail}; PyTorch: {own}") if own else (kind, "wrong", detail)

    def _by_pytorch(self, place: Place) -> list[tuple[float, float]] | str:
        """Slope and curvature of each sample by double backward of the loss itself: no sample depends on another."""
        if place.kind not in self._known:
            try:
                with twice_differentiable(), torch.enable_grad():
                    theta = place.theta.clone().requires_grad_()
                    (g,) = torch.autograd.grad(self._loss({"theta": theta}, place.given), theta, create_graph=True)
                    slopes = g * place.direction
                    (Hd,) = (
                        torch.autograd.grad(slopes.sum(), theta, materialize_grads=True) if g.requires_grad else (g,)
                    )
            except Exception as error:
                self._known[place.kind] = said(error)
            else:
                bends = Hd * place.direction
                self._known[place.kind] = [(float(slopes[at].sum()), float(bends[at].sum())) for at in self._sum.where]
        return self._known[place.kind]

    def _off_at(self, run: Run, loss: Callable[..., Tensor], place: Place, truth: list[Differences | None]) -> str:
        direction = torch.zeros_like(place.direction)
        for span, t in zip(self._sum.where, truth, strict=True):
            if t is not None:
                direction[span] = place.direction[span]
        found = run(loss, {"theta": place.theta}, {"theta": direction}, place.given)
        return _off(float(found.slope), float(found.curvature), [t for t in truth if t is not None])


def _off(slope: float, curvature: float, truth: list[Differences]) -> str:
    """Which number is not the sum of what differences say; "" for none."""
    for part, got in (("slope", slope), ("curvature", curvature)):
        want = sum(getattr(t, part) for t in truth)
        if not abs(got - want) <= _TOLERANCE * sum(t.scale for t in truth):
            return f"{part} {got:.9g} expected {want:.9g}"
    return ""


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _scaled(truth: Differences, by: float) -> Differences:
    value, slope, curvature, scale, smooth = truth
    return Differences(value * by, slope * by, curvature * by, scale * by, smooth)
