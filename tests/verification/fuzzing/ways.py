"""The ways to a quadratic, each tried on a program: a function of a trial that says what is off.

Every program has its captured sweep or adjoint tried, and a few others, drawn by its seed: over many programs each
meets each.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import alpha_func as af
from alpha_func.data_sets import accumulate, per_example_quadratics
from alpha_func.errors import CaptureError
from alpha_func.transforms import STRATEGIES
from tests.verification.fuzzing.program import Program
from tests.verification.fuzzing.references import Kind, attempt
from tests.verification.fuzzing.slots import rng
from tests.verification.fuzzing.trials import Off, Trial


class Way(NamedTuple):
    """A way to a quadratic."""

    name: str
    off: Callable[[Trial], Off]


def sweep(trial: Trial) -> Off:
    """The forward sweep of the captured program."""
    return trial.quadratic_off(af.quadratic_along(trial.captured)(trial.params, trial.direction, *trial.args))


def adjoint(trial: Trial) -> Off:
    """The gradient, and the second-order adjoint along a direction that is given then."""
    step = af.grad_and_quadratic(trial.captured, lambda grads: trial.direction)(trial.params, *trial.args)
    return trial.quadratic_off(step.quadratic) + _gradient_off(trial, step.grads)


def descent(trial: Trial) -> Off:
    """The gradient and the quadratic along d = −g, in one program."""
    step = af.grad_and_quadratic(trial.captured)(trial.params, *trial.args)
    found = _gradient_off(trial, step.grads)
    return found or trial.quadratic_off(step.quadratic, trial.reference.at(trial.params, step.direction, trial.args))


def plain(trial: Trial) -> Off:
    """Double backward over the loss itself."""
    return trial.quadratic_off(af.quadratic_along(trial.loss)(trial.params, trial.direction, *trial.args))


def product(trial: Trial) -> Off:
    """Hd, by double backward over the captured program."""
    Hd = af.hvp(trial.captured)(trial.params, trial.direction, *trial.args)
    return trial.tensors_off("Hd", list(Hd.values()))


def second_sweep(trial: Trial) -> Off:
    """The sweep again, at other values in tensors of other strides."""
    return _second(trial, lambda loss, p, d, args: af.quadratic_along(loss)(p, d, *args))


def second_adjoint(trial: Trial) -> Off:
    """The adjoint again, at other values in tensors of other strides."""
    return _second(trial, lambda loss, p, d, args: af.grad_and_quadratic(loss, lambda g: d)(p, *args).quadratic)


def vmapped(trial: Trial) -> Off:
    """The sweep under vmap over three directions."""
    directions = trial.reference.directions()
    stacked = {k: torch.stack([d[k].to(v.dtype) for d in directions]) for k, v in trial.direction.items()}
    try:
        found = torch.func.vmap(lambda d: af.quadratic_along(trial.captured)(trial.params, d, *trial.args))(stacked)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, CaptureError) or attempt(lambda: _jvp_vmapped(trial, stacked)):
            raise
        return []  # PyTorch cannot vmap the loss itself
    truths = [trial.reference.at(trial.params, d, trial.args) for d in directions]
    return [off for i, truth in enumerate(truths) for off in trial.quadratic_off([t[i] for t in found], truth)]


def under_grad(trial: Trial) -> Off:
    """The slope along d as the derivative of the swept value: the sweep's program, differentiated once more."""
    p = {name: t.clone().requires_grad_() for name, t in trial.params.items()}
    quadratic = af.quadratic_along(trial.captured)(p, trial.direction, *trial.args)
    if not quadratic.slope.requires_grad:
        return trial.quadratic_off(quadratic)
    Hd = torch.autograd.grad(quadratic.slope, list(p.values()), materialize_grads=True)
    off = trial.tensors_off("Hd", Hd, "reverse_over_forward")
    return trial.quadratic_off([t.detach() for t in quadratic]) + off


def strategy(trial: Trial) -> Off:
    """One of the strategies, over the loss itself."""
    return _by_some_strategy(trial, trial.loss)


def captured_strategy(trial: Trial) -> Off:
    """One of the strategies, over the captured program."""
    return _by_some_strategy(trial, trial.captured)


def per_example(trial: Trial) -> Off:
    """The quadratic of each example of a batch."""
    found = per_example_quadratics(trial.captured)(trial.params, trial.direction, tuple(trial.args))
    off = []
    for i in range(3):
        truth = trial.reference.at(trial.params, trial.direction, [a[i : i + 1] for a in trial.args])
        off += trial.quadratic_off([t[i] for t in found], truth)
    return off


def accumulated(trial: Trial) -> Off:
    """The quadratic of a data set of two batches, the last one ragged."""
    batches = [tuple(a[:2] for a in trial.args), tuple(a[2:] for a in trial.args)]
    return trial.quadratic_off(accumulate(trial.captured)(trial.params, trial.direction, batches))


SWEEP = Way("quadratic_along(captured)", sweep)
ADJOINT = Way("grad_and_quadratic(captured, along d)", adjoint)
DESCENT = Way("grad_and_quadratic(captured)", descent)
PLAIN = Way("quadratic_along(plain)", plain)
SECOND_SWEEP = Way("quadratic_along, second call", second_sweep)
SECOND_ADJOINT = Way("grad_and_quadratic, second call", second_adjoint)
CHEAP = (
    PLAIN,
    Way("hvp(captured)", product),
    Way("a strategy, plain", strategy),
    Way("a strategy, captured", captured_strategy),
)
TRANSFORMED = (  # these write the programs anew
    Way("vmap(quadratic_along(captured))", vmapped),
    Way("grad of quadratic_along(captured)", under_grad),
)
BATCHED = (Way("per_example_quadratics", per_example), Way("accumulate", accumulated))
ALL = (SWEEP, ADJOINT, DESCENT, SECOND_SWEEP, SECOND_ADJOINT, *CHEAP, *TRANSFORMED, *BATCHED)


def ways_of(seed: int, program: Program) -> list[Way]:
    """The ways that a seed's program is tried: one scheme with its second call, or all; and a few others."""
    draw = rng(seed, "ways")
    schemes = draw.choices(
        [[SWEEP, SECOND_SWEEP], [ADJOINT, SECOND_ADJOINT], [DESCENT], [SWEEP, ADJOINT, DESCENT]], [5, 3, 1, 1]
    )[0]
    chosen = [*schemes, draw.choice(CHEAP)]
    if draw.random() < 0.3:
        chosen.append(draw.choice(TRANSFORMED))
    if program.batched:
        chosen += draw.sample(BATCHED, 1)
    return chosen


def _gradient_off(trial: Trial, grads: Any) -> Off:
    return trial.tensors_off("gradient", list(grads.values()))


def _second(trial: Trial, quadratic: Callable[..., Any]) -> Off:
    """Of most programs with the strides of the first call, so that its scheme is proven away from its values; of
    the others with other strides, for which another program is captured.
    """
    strided = rng(len(trial.program.source), "strides").random() < 0.25
    params = {name: _other(t, strided) for name, t in trial.params.items()}
    direction = {name: _other(t, strided) + 0.3 for name, t in trial.direction.items()}
    args = [_other(t, strided) for t in trial.args]
    truth = trial.reference.at(params, direction, args)
    if truth.kind is Kind.UNUSABLE or attempt(lambda: trial.loss(params, *args)) is None:
        return []  # the loss itself cannot take these values or strides
    quadratic(trial.captured, trial.params, trial.direction, trial.args)
    found = trial.quadratic_off(quadratic(trial.captured, params, direction, args), truth)
    if found and trial.quadratic_off(quadratic(trial.capture(trial.loss), params, direction, args), truth):
        return []  # off at a first call too: of another kind
    return found


def _other(tensor: Tensor, strided: bool) -> Tensor:
    """Other values of the same signature, with other strides or the same."""
    numbers = torch.arange(1.0, tensor.numel() + 1, dtype=torch.float64)
    values = (torch.sin(numbers * 1.7) * 0.8).to(tensor.dtype).reshape(tensor.shape)
    if not strided:
        own = values[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())]
        return torch.empty_strided(own.shape, tensor.stride(), dtype=own.dtype).copy_(own).expand(tensor.shape)
    if values.ndim < 2:
        return torch.stack([values, values], -1)[..., 0]
    reverse = tuple(range(values.ndim))[::-1]
    return values.permute(reverse).contiguous().permute(reverse)


def _jvp_vmapped(trial: Trial, stacked: dict[str, Tensor]) -> Any:
    def along(d: dict[str, Tensor]) -> Any:
        return torch.func.jvp(lambda p: trial.loss(p, *trial.args), (trial.params,), (d,))

    return torch.func.vmap(along)(stacked)


def _by_some_strategy(trial: Trial, loss: Callable[..., Tensor]) -> Off:
    name = rng(len(trial.program.source), "strategy").choice(sorted(STRATEGIES))
    found = af.quadratic_along(loss, strategy=name)(trial.params, trial.direction, *trial.args)
    return trial.quadratic_off(found, strategy=name)
