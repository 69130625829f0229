"""Whether the sweeps themselves are exact for an operator: all its samples moved at once, with operands of every kind.

Every sample counts with generic operands (of more than 64, as many of them), one with those of each other kind, where
the operator takes it and differences converge; all are one loss (``sums``), with the scale of each sample's derivatives
as its unit. The sweep (``quadratic_along`` of the captured loss) and the adjoint (``grad_and_quadratic``) are run
strictly, twice, so that they are proven as for any later values, and then at the values of further kinds. Where a
number is off, each sample is moved alone; where there is none, the samples are taken apart until those without are
found. A verdict is that of the worst sample:

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
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.testing._internal.opinfo.core import SampleInput

import alpha_func as af
from alpha_func import tree
from alpha_func.capture.running.first_use import FirstUse
from alpha_func.errors import CaptureError, StrategyError
from tests.verification.operand_kinds import KINDS, VALUES
from tests.verification.operator_cases import at_sample, usable
from tests.verification.sums import Sum
from tests.verification.together import Run, Sample, Together, said

SWEEPS = ("sweep", "adjoint")
GENERIC_LIMIT = 64  # samples with generic operands: 20 operators have more
OTHER_KINDS_LIMIT = 1  # samples of each kind that is not generic, of those that are asked in turn
_TRIED = 8  # samples that are asked whether they can be of a kind
_ORDER = ("", "n/a", "exact", "refused", "falls back", "inherited", "raises", "wrong", "crash")
Verdicts = dict[str, str]  # by kind of operand
Finding = tuple[str, str, str, str]  # sweep, kind, verdict, what was said


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
    heard: list[tuple[str, str]] = []
    rules: set[str] = set()
    for sweep, kind, verdict, detail in _not_exact(together, rules) if together else ():
        verdicts[sweep][kind] = worst([verdicts[sweep].get(kind, "n/a"), verdict])
        heard.append((verdict, f"{sweep}, {kind}, {verdict}: {detail.splitlines()[0]}"[:240]))
    heard.sort(key=lambda each: -_ORDER.index(each[0]))
    counted = {"given": len(given), "generic": sum(s.kind == "generic" for s in kept)}
    return {**verdicts, **counted, "said": [each for _, each in heard[:6]], "rules": sorted(rules)}


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
    limit, tried = (GENERIC_LIMIT, GENERIC_LIMIT) if kind == "generic" else (OTHER_KINDS_LIMIT, _TRIED)
    tried = samples[:: max(1, -(-len(samples) // tried))]
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


def _not_exact(together: Together, rules: set[str], sweeps: Sequence[str] = SWEEPS) -> Iterator[Finding]:
    """What is not exact: all at once, then kind by kind, then each half. What falls back says enough of its kind, as do
    two samples that are refused; behind another error there may be worse."""
    captured, failed = together.captured(strict=True), {}
    for sweep in sweeps:
        try:
            with _no_cause() if len(together.samples) > 1 else nullcontext():
                yield from [(sweep, *found) for found in together.off(_RUN[sweep], captured)]
        except Exception as error:
            failed[sweep] = said(error)
    with suppress(Exception):  # which the verdict says
        rules |= together.rules(captured)
    single = len({sample.kind for sample in together.samples}) == 1
    relaxed = {sweep: _relaxed(together, sweep, strictly) for sweep, strictly in failed.items()} if single else {}
    left = []
    for sweep in failed:
        findings = relaxed.get(sweep, [])
        if any(verdict not in ("refused", "raises") for _, _, verdict, _ in findings):
            yield from findings
        else:
            left.append(sweep)
    if single and len(together.samples) > 2 and {v for sweep in left for _, _, v, _ in relaxed[sweep]} == {"refused"}:
        ends = [Together(end, ()) for end in (together.samples[:1], together.samples[-1:])]
        found = [finding for end in ends for finding in _not_exact(end, rules, left)]
        if [verdict for _, _, verdict, _ in found] == ["refused"] * 2 * len(left):
            yield from found
            return
    deeper: list[Finding] = []
    for part in together.apart() if left and len(together.samples) > 1 else ():
        deeper += _not_exact(part, rules, left)
    yield from deeper
    for sweep in left:
        if sweep not in {finding[0] for finding in deeper}:  # only all of them together
            yield from relaxed.get(sweep) or _relaxed(together, sweep, failed[sweep])


def _relaxed(together: Together, sweep: str, strictly: str) -> list[Finding]:
    """What a caller who is not strict gets."""
    kind = together.samples[0].kind
    try:
        with _no_cause():
            off = list(together.off(_RUN[sweep], together.captured(strict=False)))
    except (CaptureError, StrategyError) as error:
        return [(sweep, kind, "refused", said(error))]
    except Exception as error:
        return [(sweep, kind, "raises", said(error))]
    return [(sweep, *found) for found in off] or [(sweep, kind, "falls back", strictly)]


def _no_cause() -> AbstractContextManager[object]:
    """The cause of what is given up is not looked for among many samples: that writes their program many times."""
    return patch.object(FirstUse, "_culprit", lambda *_: "among several samples")


def _sweep(loss: Callable[..., Tensor], params: Any, direction: Any, given: Any) -> af.Quadratic:
    return af.quadratic_along(loss)(params, direction, given)


def _adjoint(loss: Callable[..., Tensor], params: Any, direction: Any, given: Any) -> af.Quadratic:
    step = af.grad_and_quadratic(loss, lambda grads: direction)(params, given)
    return step.quadratic._replace(slope=tree.vdot(step.grads, direction))


_RUN: dict[str, Run] = {"sweep": _sweep, "adjoint": _adjoint}
