"""Whether the sweeps themselves are exact for an operator: its samples moved at once, with operands of every kind.

    L(θ) = Σ_samples L_sample(θ_sample)      the losses of ``operator_cases``, one program for all

Every sample counts with generic operands, a few with those of each other kind, where the operator takes them and
differences converge. The sweep (``quadratic_along`` of the captured loss) and the adjoint (``grad_and_quadratic``) are
run strictly; where the sum is not exact, it is halved until the samples that are not are found. A verdict is that of
the worst sample:

    exact       the sweep's own numbers are the derivative's
    falls back  the sweep is given up, and the independent route is exact
    refused     capture refuses, with a reason
    raises      any other error
    wrong       a number that is not the derivative
    n/a         no sample
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.testing._internal.opinfo.core import SampleInput

import alpha_func as af
from alpha_func import functional_loss, tree
from alpha_func.capture import CapturedLoss
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.errors import CaptureError
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.verified.differences import Differences, differences
from tests.verification.operand_kinds import KINDS
from tests.verification.operator_cases import Operator, modules_of

SWEEPS = ("sweep", "adjoint")
OTHER_KINDS_LIMIT = 2  # samples of each kind that is not generic
_ORDER = ("", "n/a", "exact", "refused", "falls back", "raises", "wrong", "crash")
_STRICT = {"strict": True} if "strict" in inspect.signature(af.capture).parameters else {}
_TOLERANCE = 1e-6
Verdicts = dict[str, str]  # by kind of operand
Run = Callable[..., af.Quadratic]


class Sum(nn.Module):
    """Several operators at their samples, as one loss."""

    def __init__(self, operators: Sequence[Operator]):
        super().__init__()
        self.operators = nn.ModuleList(operators)

    def forward(self, given: Any) -> Tensor:
        """Σ L(θ)."""
        return torch.stack([operator(*args) for operator, args in zip(self.operators, given, strict=True)]).sum()


class Sample(NamedTuple):
    """An operator at a sample of a kind, the direction of its parameters, and what differences say along it."""

    kind: str
    operator: Operator
    direction: dict[str, Tensor]
    truth: Differences


def check(
    function: Any, samples: Callable[[], Iterator[SampleInput]], seed: int, kinds: Iterable[str] = KINDS
) -> dict[str, Any]:
    """By sweep the verdicts of each kind of operand, what was said of the first that are not exact, and which operators
    of its programs have rules."""
    generator = torch.Generator().manual_seed(seed)
    found = [sample for kind in kinds for sample in _samples(function, samples(), kind, generator)]
    said: list[str] = []
    verdicts = {}
    for sweep in SWEEPS:
        of_kind: Verdicts = dict.fromkeys((s.kind for s in found), "exact")
        for sample, verdict, detail in _not_exact(found, _RUN[sweep]):
            of_kind[sample.kind] = worst([of_kind[sample.kind], verdict])
            said.append(f"{sweep}, {sample.kind}, {verdict}: {detail}"[:240])
        verdicts[sweep] = of_kind
    return {**verdicts, "said": said[:6], "rules": _rules(found)}


def worst(verdicts: Sequence[str]) -> str:
    """The worst of several; "n/a" for none."""
    return max(verdicts, key=_ORDER.index, default="n/a")


def columns(found: dict[str, Any]) -> dict[str, str]:
    """The columns of an operator: both sweeps on generic operands, and for which others one of them is not exact."""
    generic = {sweep: found[sweep].get("generic", "n/a") for sweep in SWEEPS}
    others = {kind: worst([found[sweep].get(kind, "n/a") for sweep in SWEEPS]) for kind in KINDS if kind != "generic"}
    others = {kind: verdict for kind, verdict in others.items() if verdict not in ("exact", "n/a")}
    return {**generic, "not_exact_for": "; ".join(f"{kind}: {verdict}" for kind, verdict in others.items())}


def _samples(function: Any, samples: Iterator[SampleInput], kind: str, generator: torch.Generator) -> Iterator[Sample]:
    limit = None if kind == "generic" else OTHER_KINDS_LIMIT
    modules = modules_of(function, samples, generator, kind, limit)
    while True:
        try:
            module = next(modules, None)
        except Exception:  # the operator takes no such operands
            return
        if module is None:
            return
        sample = _with_truth(kind, module, generator)
        if sample is not None:
            yield sample


def _with_truth(kind: str, module: Operator, generator: torch.Generator) -> Sample | None:
    loss, params = functional_loss(module, seed=module.seed)
    args = (module.fixed, module.start, module.curved)
    direction = tree.randn_like(params, generator=generator)
    try:
        with twice_differentiable():
            truth = differences(
                lambda alpha: float(loss(tree.axpy(alpha, direction, params), *args)),
                1 / float(tree.norm(direction)),
                (0.05, 0.004, 0.0004),
            )
    except Exception:
        return None
    return Sample(kind, module, direction, truth) if truth.smooth else None


def _not_exact(samples: list[Sample], run: Run) -> Iterator[tuple[Sample, str, str]]:
    """Samples that are not exact, with verdict and what was said: all at once, then each half. A number that is wrong
    says enough of its kind; behind an error there may be worse."""
    verdict, detail = _verdict(samples, run) if samples else ("exact", "")
    if verdict == "exact":
        return
    half = len(samples) // 2
    says_enough = verdict in ("wrong", "falls back") and samples[0].kind == samples[-1].kind
    found = [] if says_enough else [*_not_exact(samples[:half], run), *_not_exact(samples[half:], run)] if half else []
    yield from found or [(samples[0], verdict, detail)]


def _verdict(samples: list[Sample], run: Run) -> tuple[str, str]:
    try:
        off = _off(samples, run, _STRICT)
    except Exception as error:
        off = f"{type(error).__name__}: {error}"
    if not off:
        return "exact", ""
    try:
        still_off = _off(samples, run, {})
    except CaptureError as error:
        return "refused", str(error)
    except Exception as error:
        return "raises", f"{type(error).__name__}: {error}"
    return ("wrong", still_off) if still_off else ("falls back", off)


def _rules(samples: list[Sample]) -> list[str]:
    found = set()
    for sample in {sample.kind: sample for sample in samples}.values():
        with suppress(Exception):  # refused, which the verdict says
            loss, params = functional_loss(sample.operator, seed=sample.operator.seed)
            args = sample.operator.fixed, sample.operator.start, sample.operator.curved
            nodes = af.capture(loss).program(params, *args).graph.graph.nodes
            found |= {str(node.target) for node in nodes if node.target in RULES}
    return sorted(found)


def _off(samples: list[Sample], run: Run, options: dict[str, Any]) -> str:
    """What is not the sum of the truths; "" where all is."""
    loss, params = functional_loss(Sum([s.operator for s in samples]), seed=samples[0].operator.seed)
    direction = {f"operators.{i}.{name}": d for i, s in enumerate(samples) for name, d in s.direction.items()}
    direction = {name: direction[name] for name in params}
    given = [(s.operator.fixed, s.operator.start, s.operator.curved) for s in samples]
    found = run(af.capture(loss, **options), params, direction, given)
    for part, scaled in (("slope", 1.0), ("curvature", 0.0)):
        want = sum(getattr(s.truth, part) for s in samples)
        scale = sum(s.truth.scale * float(1 / tree.norm(s.direction)) ** scaled for s in samples)
        got = float(getattr(found, part))
        if not abs(got - want) <= _TOLERANCE * scale:
            return f"{part} {got:.9g} expected {want:.9g}"
    return ""


def _sweep(captured: CapturedLoss, params: Any, direction: Any, given: Any) -> af.Quadratic:
    return af.quadratic_along(captured)(params, direction, given)


def _adjoint(captured: CapturedLoss, params: Any, direction: Any, given: Any) -> af.Quadratic:
    step = af.grad_and_quadratic(captured, lambda grads: direction)(params, given)
    return step.quadratic._replace(slope=tree.vdot(step.grads, direction))


_RUN: dict[str, Run] = {"sweep": _sweep, "adjoint": _adjoint}
