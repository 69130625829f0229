"""A function of tensors whose derivative is refused instead of taken for zero."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

Run = Callable[..., tuple[Tensor, ...]]
_REMEDY = (
    "the optimizer's step was differentiated, and it is constant to PyTorch: give from_optimizer differentiable=True, "
    "or detach the gradients for a direction that is held fixed"
)


def without_derivative(run: Run, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """``run(*operands)``, under vmap once for each element; a derivative with respect to an operand raises.

    >>> import torch
    >>> from torch.func import vmap
    >>> vmap(lambda x: without_derivative(lambda x: (x.clone().zero_().add_(x.item()),), [x]))(torch.tensor([1.0, 2.0]))
    (tensor([1., 2.]),)
    """
    tracked = torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)
    if tracked or peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return _Underived.apply(run, *operands)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # as inside the Function
        return run(*operands)


class _Underived(torch.autograd.Function):
    """In-place arithmetic and ``.item()`` run as they are: inside, a tensor is no functorch wrapper."""

    generate_vmap_rule = False

    @staticmethod
    def forward(run: Run, *operands: Tensor) -> tuple[Tensor, ...]:
        return run(*operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept: there is no backward."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise NotImplementedError(_REMEDY)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_REMEDY)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], run: Run, *operands: Tensor) -> Any:
        each = []
        for i in range(info.batch_size):
            dims = zip(operands, in_dims[1:], strict=True)
            ith = [x if dim is None else x.select(dim, i) for x, dim in dims]
            each.append(_Underived.apply(run, *ith))  # type: ignore[no-untyped-call]
        results = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
        return results, (0,) * len(results)
