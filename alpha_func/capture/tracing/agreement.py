"""A program checked against the loss it was made of: the same value, once, at the first call of a signature.

A trace may miss what the loss does (a number that leaves torch and comes back, a count that changes with every call),
and a lowering may compute another value than the operator it stands for (PyTorch's own of ``multilabel_margin_loss``
did). Then no derivative is right either. The price is one forward pass.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor, maybe_get_bdim
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from alpha_func import tree
from alpha_func.capture.tracing.refusal import EAGER
from alpha_func.errors import CaptureError
from alpha_func.losses.draws import seeded_rng
from alpha_func.tree import Tree

_NEAR = 16  # roundings by which two orders of one computation differ without a second look
_FAR = 100  # spreads of the program under roundings of its own that two orders of it may lie apart
_DISTURBED_RUNS = 4


def require_agreement(
    loss: Callable[..., Tensor],
    program: fx.GraphModule,
    seed: int | None,
    inputs: list[Tensor],
    params: Tree,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
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
    with _aside():
        found = [_plain(tensor) for tensor in inputs]
        if any(tensor is None for tensor in found):
            return
        operands = [tensor for tensor in found if tensor is not None]
        params, args, kwargs = tree.map(lambda v: _plain(v) if isinstance(v, Tensor) else v, (params, args, kwargs))
        if seed is not None and any(tensor.is_cuda for tensor in operands):
            return  # CUDA's own dropout has another mask than that of torch.func
        expected = loss(params, *args, **kwargs).detach()
        with _seeded(seed):
            got = program(*operands).detach()
        if _near(got, expected, operands):
            return
        spread = _spread(program, seed, operands, got)
        if not abs(float(got) - float(expected)) <= _FAR * spread:  # so for a NaN
            raise CaptureError(
                f"the program's value is {float(got):.9g}, the loss's own {float(expected):.9g}, on the same inputs: "
                "the loss reads something that changes from call to call, or an operator is lowered wrongly; "
                f"make it a function of its arguments, or {EAGER}"
            )


@contextmanager
def _aside() -> Iterator[None]:
    """Outside the transforms and modes of the call, its random numbers left alone."""
    with ExitStack() as stack:
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(_disable_current_modes())
        stack.enter_context(forward_ad._set_fwd_grad_enabled(False))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        yield


def _plain(tensor: Tensor) -> Tensor | None:
    """The values beneath a transform, one example of a batch; None where there are none to compute with."""
    while is_functorch_wrapped_tensor(tensor):
        dim = maybe_get_bdim(tensor) if is_batchedtensor(tensor) else None
        tensor = get_unwrapped(tensor)
        if dim is not None:
            if tensor.shape[dim] == 0:
                return None
            tensor = tensor.select(dim, 0)
    return None if isinstance(tensor, FakeTensor) or tensor.is_meta else tensor.detach()


def _near(got: Tensor, expected: Tensor, operands: list[Tensor]) -> bool:
    a, b = float(got), float(expected)
    if a == b or (math.isnan(a) and math.isnan(b)):
        return True
    roundings = [_rounding(t) for t in (*operands, expected) if t.is_floating_point() or t.is_complex()]
    return abs(a - b) <= _NEAR * max(roundings) * max(abs(a), abs(b)) < math.inf


def _rounding(tensor: Tensor) -> float:
    if tensor.is_cuda and tensor.dtype is torch.float32:
        return 2.0**-11  # TF32, which products, convolutions and recurrent nets may or may not be computed in
    return torch.finfo(tensor.dtype).eps


def _seeded(seed: int | None) -> AbstractContextManager[None]:
    return nullcontext() if seed is None else seeded_rng(seed)


def _spread(program: fx.GraphModule, seed: int | None, operands: list[Tensor], value: Tensor) -> float:
    """How far the value goes when the result of every operator is off by a rounding."""
    runs = []
    for run in range(_DISTURBED_RUNS):
        with _seeded(seed):
            runs.append(float(_Disturbed(program, run).run(*operands)))
    return max(abs(run - float(value)) for run in runs)


class _Disturbed(fx.Interpreter):
    """A program with every floating result x replaced by x·(1 + ε·u), u uniform in [−1, 1]."""

    def __init__(self, program: fx.GraphModule, seed: int):
        super().__init__(program)
        self._noise = torch.Generator().manual_seed(seed)  # not the generator that the program draws from

    def run_node(self, n: fx.Node) -> Any:
        """The result of one operator, disturbed."""
        return tree.map(self._disturbed, super().run_node(n))

    def _disturbed(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        noise = (2 * torch.rand(value.shape, generator=self._noise) - 1).to(value) * _rounding(value)
        disturbed = value + value * noise
        return torch.where(disturbed.isfinite(), disturbed, value)  # a mask of −∞ stays one
