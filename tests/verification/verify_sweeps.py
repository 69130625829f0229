"""Whether the sweeps themselves are exact for an operator: all its samples moved at once, with operands of every kind.

Every sample counts with generic operands, one with those of each other kind, where the operator takes them and
differences converge; all are one loss (``sums``), with the scale of each sample's derivatives as its unit. The sweep
(``quadratic_along`` of the captured loss) and the adjoint (``grad_and_quadratic``) are run strictly, twice, so that
they are proven as for any later values, and then at the values of further kinds. Where a number is off, each sample is
moved alone; where there is none, the samples are taken apart until those without are found. A verdict is that of the
worst sample:

    exact       the sweep's own numbers are the derivative's
    falls back  the sweep is given up, and the independent route is exact
    refused     capture refuses, with a reason
    raises      any other error
    inherited   a number that is not the derivative, nor is that of PyTorch's double backward (a singular point)
    wrong       any other number that is not the derivative
    n/a         no sample
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.testing._internal.opinfo.core import SampleInput

import alpha_func as af
from alpha_func import functional_loss, tree
from alpha_func.capture import CapturedLoss
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.capture.running.first_use import FirstUse
from alpha_func.errors import CaptureError, StrategyError
from alpha_func.verified.differences import Differences
from tests.verification.operand_kinds import KINDS, VALUES
from tests.verification.operator_cases import Operator, at_sample, usable
from tests.verification.sums import Given, Sum

SWEEPS = ("sweep", "adjoint")
OTHER_KINDS_LIMIT = 1  # samples of each kind that is not generic, of those that are asked in turn
_TRIED = 8  # samples that are asked whether they can be of a kind
_ORDER = ("", "n/a", "exact", "refused", "falls back", "inherited", "raises", "wrong", "crash")
_TOLERANCE = 1e-6
Verdicts = dict[str, str]  # by kind of operand
Run = Callable[..., af.Quadratic]
Finding = tuple[str, str, str, str]  # sweep, kind, verdict, what was said


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


def check(
    function: Any, samples: Callable[[], Iterator[SampleInput]], seed: int, kinds: Iterable[str] = KINDS
) -> dict[str, Any]:
    """By sweep the verdicts of each kind of operand, how many generic samples they rest on, what was said of the first
    that are not exact, and which operators of its programs have rules."""
    generator = torch.Generator().manual_seed(seed)
    kinds, given = list(kinds), usable(samples())
    found = [s for kind in kinds if kind not in VALUES for s in _samples(function, given, kind, generator)]
    together = _smooth(found, [kind for kind in VALUES if kind in kinds])
    kept = together.samples if together else []
    of_kinds = [s.kind for s in kept] + [place.kind for place in together.places[1:]] if together else []
    verdicts: dict[str, Verdicts] = {sweep: dict.fromkeys(of_kinds, "exact") for sweep in SWEEPS}
    said: list[tuple[str, str]] = []
    rules: set[str] = set()
    for sweep, kind, verdict, detail in _not_exact(together, rules) if together else ():
        verdicts[sweep][kind] = worst([verdicts[sweep].get(kind, "n/a"), verdict])
        said.append((verdict, f"{sweep}, {kind}, {verdict}: {detail.splitlines()[0]}"[:240]))
    said.sort(key=lambda each: -_ORDER.index(each[0]))
    counted = {"given": len(given), "generic": sum(s.kind == "generic" for s in kept)}
    return {**verdicts, **counted, "said": [each for _, each in said[:6]], "rules": sorted(rules)}


def worst(verdicts: Sequence[str]) -> str:
    """The worst of several; "n/a" for none."""
    return max(verdicts, key=_ORDER.index, default="n/a")


def columns(found: dict[str, Any]) -> dict[str, str]:
    """The columns of an operator: both sweeps on generic operands, for which others one of them is not exact, and the
    first that was said of it."""
    if "failed" in found:
        return {**dict.fromkeys(SWEEPS, "crash"), "not_exact_for": "", "because": found["failed"]}
    generic = {sweep: found[sweep].get("generic", "n/a") for sweep in SWEEPS}
    others = {kind: worst([found[sweep].get(kind, "n/a") for sweep in SWEEPS]) for kind in KINDS if kind != "generic"}
    others = {kind: verdict for kind, verdict in others.items() if verdict not in ("exact", "n/a")}
    because = found["said"][:1]
    if "n/a" in generic.values():
        because = [f"of {found['given']} samples, none has derivatives that differences resolve"]
    listed = "; ".join(f"{kind}: {verdict}" for kind, verdict in others.items())
    return {**generic, "not_exact_for": listed, "because": "".join(because)}


def _samples(function: Any, samples: list[SampleInput], kind: str, generator: torch.Generator) -> Iterator[Sample]:
    limit = len(samples) if kind == "generic" else OTHER_KINDS_LIMIT
    tried = samples if kind == "generic" else samples[:: max(1, len(samples) // _TRIED)][:_TRIED]
    for sample in tried:
        try:
            operator = at_sample(function, sample, generator, kind)
            has_outputs = operator is not None and Sum([operator]).has_outputs
        except Exception:  # the operator takes no such operands
            continue
        if operator is not None and has_outputs and limit:
            limit -= 1
            yield Sample(kind, operator)


def _smooth(samples: list[Sample], values: Sequence[str]) -> "Together | None":
    """Those of which differences converge; an operator that draws has other numbers where others are left out."""
    while samples:
        together = Together(samples, values)
        kept = [sample for sample, truth in zip(samples, together.places[0].truth, strict=True) if truth is not None]
        if len(kept) == len(samples):
            return together
        samples = kept
    return None


class Together:
    """Samples as one loss, which is captured once for both sweeps and the values of all kinds."""

    def __init__(self, samples: Sequence[Sample], values: Sequence[str]):
        self.samples, self.values = samples, values
        self._sum = Sum([s.operator for s in samples])
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
        alone = [truth if i == sample else None for i, truth in enumerate(place.truth)]
        detail = self._off_at(run, captured, place, alone) if alone[sample] else ""
        if not detail:
            return None
        try:
            by_pytorch = self._off_at(_sweep, self._loss, place, alone)
        except Exception as error:
            by_pytorch = _said(error)
        kind = place.kind or self.samples[sample].kind
        return (kind, "inherited", f"{detail}; PyTorch: {by_pytorch}") if by_pytorch else (kind, "wrong", detail)

    def _off_at(self, run: Run, loss: Callable[..., Tensor], place: Place, truth: list[Differences | None]) -> str:
        direction = torch.zeros_like(place.direction)
        for span, t in zip(self._sum.where, truth, strict=True):
            if t is not None:
                direction[span] = place.direction[span]
        found = run(loss, {"theta": place.theta}, {"theta": direction}, place.given)
        moved = [t for t in truth if t is not None]
        for part in ("slope", "curvature"):
            want, got = sum(getattr(t, part) for t in moved), float(getattr(found, part))
            if not abs(got - want) <= _TOLERANCE * sum(t.scale for t in moved):
                return f"{part} {got:.9g} expected {want:.9g}"
        return ""


def _not_exact(together: Together, rules: set[str], sweeps: Sequence[str] = SWEEPS) -> Iterator[Finding]:
    """What is not exact: all at once, then kind by kind, then each half. What falls back says enough of its kind;
    behind an error there may be worse."""
    captured, failed = together.captured(strict=True), {}
    for sweep in sweeps:
        try:
            with _no_cause() if len(together.samples) > 1 else nullcontext():
                yield from [(sweep, *found) for found in together.off(_RUN[sweep], captured)]
        except Exception as error:
            failed[sweep] = _said(error)
    with suppress(Exception):  # which the verdict says
        rules |= together.rules(captured)
    single = len({sample.kind for sample in together.samples}) == 1
    relaxed = {sweep: _relaxed(together, sweep, said) for sweep, said in failed.items()} if single else {}
    left = []
    for sweep in failed:
        findings = relaxed.get(sweep, [])
        if any(verdict not in ("refused", "raises") for _, _, verdict, _ in findings):
            yield from findings
        else:
            left.append(sweep)
    deeper: list[Finding] = []
    for part in together.apart() if left and len(together.samples) > 1 else ():
        deeper += _not_exact(part, rules, left)
    yield from deeper
    for sweep in left:
        if sweep not in {finding[0] for finding in deeper}:  # only all of them together
            yield from relaxed.get(sweep) or _relaxed(together, sweep, failed[sweep])


def _relaxed(together: Together, sweep: str, said: str) -> list[Finding]:
    """What a caller who is not strict gets."""
    kind = together.samples[0].kind
    try:
        with _no_cause():
            off = list(together.off(_RUN[sweep], together.captured(strict=False)))
    except (CaptureError, StrategyError) as error:
        return [(sweep, kind, "refused", _said(error))]
    except Exception as error:
        return [(sweep, kind, "raises", _said(error))]
    return [(sweep, *found) for found in off] or [(sweep, kind, "falls back", said)]


def _no_cause() -> AbstractContextManager[object]:
    """The cause of what is given up is not looked for among many samples: that writes their program many times."""
    return patch.object(FirstUse, "_culprit", lambda *_: "among several samples")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _scaled(truth: Differences, by: float) -> Differences:
    value, slope, curvature, scale, smooth = truth
    return Differences(value * by, slope * by, curvature * by, scale * by, smooth)


def _sweep(loss: Callable[..., Tensor], params: Any, direction: Any, given: Any) -> af.Quadratic:
    return af.quadratic_along(loss)(params, direction, given)


def _adjoint(loss: Callable[..., Tensor], params: Any, direction: Any, given: Any) -> af.Quadratic:
    step = af.grad_and_quadratic(loss, lambda grads: direction)(params, given)
    return step.quadratic._replace(slope=tree.vdot(step.grads, direction))


_RUN: dict[str, Run] = {"sweep": _sweep, "adjoint": _adjoint}
