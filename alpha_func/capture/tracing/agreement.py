"""A program checked against the loss it was made of: the same value, once, at the first call of a signature.

A trace may miss what the loss does (a number that leaves torch and comes back, a count that changes with every call),
and a lowering may compute another value than the operator it stands for (PyTorch's own of ``multilabel_margin_loss``
did). Then no derivative is right either. The price is one forward pass.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.tracing.refusal import EAGER
from alpha_func.capture.tracing.roundings import coarsest, disturbed, seeded
from alpha_func.errors import CaptureError
from alpha_func.losses.looking import looking
from alpha_func.losses.module_loss import ModuleLoss, Watched
from alpha_func.torch_private import (
    FakeTensor,
    modes_disabled,
    saved_tensors_hooks_allowed,
    temporarily_clear_interpreter_stack,
    uncompiled,
)
from alpha_func.tree import Tree

_FAR = 100  # spreads of the program under roundings of its own that two orders of it may lie apart
_RUNS = 4
_NEAR = 16  # roundings by which two orders of one computation differ without a second look


def require_agreement(
    loss: Callable[..., Tensor],
    program: fx.GraphModule,
    seed: int | None,
    inputs: list[Tensor],
    params: Tree,
    args: Args,
    kwargs: Kwargs,
) -> None:
    """Refuse a program whose value is not the loss's own.

    Roundings explain a difference up to what rounding every operation of the program anew can do to its value (Monte
    Carlo arithmetic, Parker 1997): a loss near zero by cancellation, a deep net in bfloat16.

    Args:
        loss: the loss, which is called once.
        program: the graph, of ``inputs``.
        seed: of its random draws, if it makes any.
        inputs: the tensors that the program takes, for these arguments.
        params, args, kwargs: what the loss takes; under a transform, one example of what is batched.

    Raises:
        CaptureError: the values differ; the message holds both.
    """
    if any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in inputs):
        return
    with aside():
        operands = tree.map(Tensor.detach, inputs)
        if seed is not None and any(tensor.is_cuda for tensor in operands):
            return  # CUDA's own dropout has another mask than that of torch.func
        if not isinstance(loss, ModuleLoss):  # which looks at itself
            _look(loss, params, args, kwargs)
        with torch.enable_grad(), Watched():  # the loss may differentiate within
            leaves = tree.map(lambda leaf: leaf.detach().requires_grad_(), params)
            expected = loss(leaves, *args, **kwargs).detach()
        with seeded(seed):
            got = program(*operands).detach()
        if _near(got, expected, operands):
            return
        spread = spread_of(program, seed, operands, got)
        if not abs(float(got) - float(expected)) <= _FAR * spread:  # so for a NaN
            raise CaptureError(
                f"the program's value is {float(got):.9g}, and the loss's own is {float(expected):.9g}, on the same "
                "inputs: the loss reads something that changes from call to call, or an operator is lowered wrongly; "
                f"make it a function of its arguments, or {EAGER}"
            )


def _look(loss: Callable[..., Tensor], params: Tree, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Call it once to see that it writes to nothing; its own errors the call itself raises."""
    clones = tree.map(lambda leaf: leaf.detach().clone().requires_grad_(), params)
    with suppress(RuntimeError), torch.enable_grad(), Watched(), looking(clones, (args, kwargs)):
        loss(clones, *args, **kwargs)


@contextmanager
def aside() -> Iterator[None]:
    """Outside the transforms and modes of the call, its random numbers left alone."""
    with ExitStack() as stack:
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(modes_disabled())
        stack.enter_context(saved_tensors_hooks_allowed())
        stack.enter_context(forward_ad._set_fwd_grad_enabled(False))
        stack.enter_context(torch.inference_mode(False))  # in which nothing can be differentiated
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(uncompiled())
        yield


def spread_of(program: fx.GraphModule, seed: int | None, operands: list[Tensor], value: Tensor) -> float:
    """How far the value goes when the result of every operator is off by a rounding."""
    runs = []
    for run in disturbed(program, _RUNS):
        with seeded(seed):
            runs.append(float(run(*operands).detach()))
    return max(abs(run - float(value)) for run in runs)


def _near(got: Tensor, expected: Tensor, operands: list[Tensor]) -> bool:
    a, b = float(got), float(expected)
    if a == b or (math.isnan(a) and math.isnan(b)):
        return True
    return abs(a - b) <= _NEAR * coarsest([*operands, expected]) * max(abs(a), abs(b)) < math.inf
