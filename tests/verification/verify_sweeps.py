"""Whether the sweeps themselves are exact for an operator: all its samples moved at once, for every kind of operand.

    L(θ) = Σ_samples L_sample(θ_sample)      the losses of ``operator_cases``, one program for all

A sample counts where differences converge and, for a kind, where the operator takes such operands. The sweep
(``quadratic_along`` of the captured loss) and the adjoint (``grad_and_quadratic``) are run strictly; where the sum is
not exact, it is halved until the samples that are not are found. A verdict is that of the worst sample:

    exact       the sweep's own numbers are the derivative's
    falls back  the sweep is given up, and the independent route is exact
    refused     capture refuses, with a reason
    raises      any other error
    wrong       a number that is not the derivative
    n/a         no sample
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import alpha_func as af
from alpha_func import functional_loss, tree
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.verified.differences import Differences, differences
from tests.verification.operand_kinds import KINDS
from tests.verification.operator_cases import Operator, cases, modules_of

SWEEPS = ("sweep", "adjoint")
OTHER_KINDS_LIMIT = 4  # samples of kinds that are not generic
_ORDER = ("n/a", "exact", "refused", "falls back", "raises", "wrong", "crash")
_STRICT = {"strict": True} if "strict" in inspect.signature(af.capture).parameters else {}
_TOLERANCE = 1e-6


class Sum(nn.Module):
    """Several operators at their samples, as one loss."""

    def __init__(self, operators: Sequence[Operator]):
        super().__init__()
        self.operators = nn.ModuleList(operators)

    def forward(self, given: Any) -> Tensor:
        """Σ L(θ)."""
        return torch.stack([operator(*args) for operator, args in zip(self.operators, given, strict=True)]).sum()


class Sample(NamedTuple):
    """An operator at a sample, the direction of its parameters, and what differences say along it."""

    operator: Operator
    direction: dict[str, Tensor]
    truth: Differences


def check(name: str, kind: str, limit: int | None = None) -> dict[str, Any]:
    """The verdicts of both sweeps on an operator for a kind of operand, how many samples, and what was said."""
    function, samples = cases()[name]
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    limit = limit if kind == "generic" else OTHER_KINDS_LIMIT
    found = []
    modules = modules_of(function, samples(), generator, kind, limit)
    while True:
        try:
            module = next(modules, None)
        except Exception:  # the operator takes no such operands
            break
        if module is None:
            break
        sample = _with_truth(module, generator)
        if sample is not None:
            found.append(sample)
    said: list[str] = []
    verdicts = {sweep: _worst_of(found, _RUN[sweep], said) for sweep in SWEEPS}
    return {**verdicts, "samples": len(found), "said": said[:4]}


def worst(verdicts: Sequence[str]) -> str:
    """The worst of several; "n/a" for none."""
    return max(verdicts, key=_ORDER.index, default="n/a")


def _with_truth(module: Operator, generator: torch.Generator) -> Sample | None:
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
    return Sample(module, direction, truth) if truth.smooth else None


def _worst_of(samples: list[Sample], run: Callable[..., af.Quadratic], said: list[str]) -> str:
    """All at once; where that is not exact, each half."""
    if not samples:
        return "n/a"
    verdict, detail = _verdict(samples, run)
    if verdict == "exact" or len(samples) == 1:
        if detail:
            said.append(f"{verdict}: {detail}"[:200])
        return verdict
    half = len(samples) // 2
    halves = worst([_worst_of(samples[:half], run, said), _worst_of(samples[half:], run, said)])
    return verdict if halves == "exact" else halves  # only together


def _verdict(samples: list[Sample], run: Callable[..., af.Quadratic]) -> tuple[str, str]:
    try:
        off = _off(samples, run, _STRICT)
    except Exception as error:
        off = f"{type(error).__name__}: {error}"
    if not off:
        return "exact", ""
    try:
        still_off = _off(samples, run, {})
    except af.CaptureError as error:
        return "refused", str(error)
    except Exception as error:
        return "raises", f"{type(error).__name__}: {error}"
    return ("wrong", still_off) if still_off else ("falls back", off)


def _off(samples: list[Sample], run: Callable[..., af.Quadratic], options: dict[str, Any]) -> str:
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


def _sweep(captured: af.CapturedLoss, params: Any, direction: Any, given: Any) -> af.Quadratic:
    return af.quadratic_along(captured)(params, direction, given)


def _adjoint(captured: af.CapturedLoss, params: Any, direction: Any, given: Any) -> af.Quadratic:
    step = af.grad_and_quadratic(captured, lambda grads: direction)(params, given)
    return step.quadratic._replace(slope=tree.vdot(step.grads, direction))


_RUN = {"sweep": _sweep, "adjoint": _adjoint}


def columns(verdicts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The columns of an operator: both sweeps on generic operands, and on which others one of them is not exact."""
    generic = verdicts.get("generic", {})
    others = []
    for kind in KINDS:
        seen = worst([verdicts[kind][sweep] for sweep in SWEEPS]) if kind in verdicts else "n/a"
        if kind != "generic" and seen not in ("exact", "n/a"):
            others.append(f"{kind}: {seen}")
    return {**{sweep: generic.get(sweep, "") for sweep in SWEEPS}, "not_exact_for": "; ".join(others)}


def examine(job: str) -> dict[str, Any]:
    """The job ``operator kind`` in a child."""
    name, kind = job.split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        return check(name, kind)
