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
from functools import cached_property
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
    together = Together(found)
    said: list[str] = []
    verdicts = {}
    for sweep in SWEEPS:
        of_kind: Verdicts = dict.fromkeys((s.kind for s in found), "exact")
        for sample, verdict, detail in _not_exact(together, _RUN[sweep]):
            of_kind[sample.kind] = worst([of_kind[sample.kind], verdict])
            said.append(f"{sweep}, {sample.kind}, {verdict}: {detail}"[:240])
        verdicts[sweep] = of_kind
    return {**verdicts, "said": said[:6], "rules": sorted(_rules(together))}


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


class Together:
    """Samples as one loss, which is captured once for both sweeps."""

    def __init__(self, samples: list[Sample]):
        self.samples = samples
        self.given = [(s.operator.fixed, s.operator.start, s.operator.curved) for s in samples]

    @cached_property
    def loss(self) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
        """The loss and its parameters."""
        return functional_loss(Sum([s.operator for s in self.samples]), seed=self.samples[0].operator.seed)

    @cached_property
    def strict(self) -> CapturedLoss:
        """The captured loss, whose sweeps answer or raise."""
        return af.capture(self.loss[0], **_STRICT)

    def off(self, run: Run, captured: CapturedLoss) -> str:
        """What is not the sum of the truths; "" where all is."""
        params = self.loss[1]
        direction = {f"operators.{i}.{name}": d for i, s in enumerate(self.samples) for name, d in s.direction.items()}
        found = run(captured, params, {name: direction[name] for name in params}, self.given)
        for part, scaled in (("slope", 1.0), ("curvature", 0.0)):
            want = sum(getattr(s.truth, part) for s in self.samples)
            scale = sum(s.truth.scale * float(1 / tree.norm(s.direction)) ** scaled for s in self.samples)
            got = float(getattr(found, part))
            if not abs(got - want) <= _TOLERANCE * scale:
                return f"{part} {got:.9g} expected {want:.9g}"
        return ""


def _not_exact(together: Together, run: Run) -> Iterator[tuple[Sample, str, str]]:
    """Samples that are not exact, with verdict and what was said: all at once, then each half. A number that is wrong
    says enough of its kind; behind an error there may be worse."""
    samples = together.samples
    verdict, detail = _verdict(together, run) if samples else ("exact", "")
    if verdict == "exact":
        return
    half = len(samples) // 2
    says_enough = verdict in ("wrong", "falls back") and samples[0].kind == samples[-1].kind
    halves = [] if says_enough or not half else [samples[:half], samples[half:]]
    found = [sample for part in halves for sample in _not_exact(Together(part), run)]
    yield from found or [(samples[0], verdict, detail)]


def _verdict(together: Together, run: Run) -> tuple[str, str]:
    try:
        off = together.off(run, together.strict)
    except Exception as error:
        off = f"{type(error).__name__}: {error}"
    if not off:
        return "exact", ""
    try:
        still_off = together.off(run, af.capture(together.loss[0]))
    except CaptureError as error:
        return "refused", str(error)
    except Exception as error:
        return "raises", f"{type(error).__name__}: {error}"
    return ("wrong", still_off) if still_off else ("falls back", off)


def _rules(together: Together) -> set[str]:
    """The operators with rules in the program of all samples; where that is refused, in those of each kind."""
    try:
        nodes = together.strict.program(together.loss[1], together.given).graph.graph.nodes
    except Exception:  # which the verdict says
        kinds = {sample.kind: [sample] for sample in together.samples}
        apart = kinds.values() if len(together.samples) > 1 else ()
        return {name for samples in apart for name in _rules(Together(samples))}
    return {str(node.target) for node in nodes if node.target in RULES}


def _sweep(captured: CapturedLoss, params: Any, direction: Any, given: Any) -> af.Quadratic:
    return af.quadratic_along(captured)(params, direction, given)


def _adjoint(captured: CapturedLoss, params: Any, direction: Any, given: Any) -> af.Quadratic:
    step = af.grad_and_quadratic(captured, lambda grads: direction)(params, given)
    return step.quadratic._replace(slope=tree.vdot(step.grads, direction))


_RUN: dict[str, Run] = {"sweep": _sweep, "adjoint": _adjoint}
