"""A function of tensors whose derivative is refused instead of taken for zero."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from alpha_func import tree
from alpha_func.torch_private import peek_interpreter_stack
from alpha_func.tree import Tree

T = TypeVar("T")
_REMEDY = (
    "the optimizer's step was differentiated, and PyTorch treats it as a constant: pass from_optimizer "
    "differentiable=True, or detach the gradients to hold the direction fixed"
)


def without_derivative(run: Callable[..., T], *operands: Tree) -> T:
    """``run(*operands)``, under vmap once for each element; a derivative with respect to a tensor in them raises.

    >>> from torch.func import vmap
    >>> vmap(lambda x: without_derivative(lambda x: x.clone().zero_().add_(x.item()), x))(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    transformed = peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    if not transformed and not (torch.is_grad_enabled() and _requires_grad(operands)):
        with torch.no_grad():  # as inside the Function
            return run(*operands)
    leaves, structure = tree.flatten(operands)
    outcome: list[Any] = []  # how the result is nested, and its leaves that are not tensors

    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        results, nesting = tree.flatten(run(*tree.unflatten(_filled(leaves, tensors), structure)))
        outcome[:] = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in results], nesting
        return tuple(leaf for leaf in results if isinstance(leaf, Tensor))

    tensors = _Underived.apply(of_tensors, *(x for x in leaves if isinstance(x, Tensor)))  # type: ignore[no-untyped-call]
    constants, nesting = outcome
    rest = iter(tensors)
    return tree.unflatten([next(rest) if leaf is None else leaf[0] for leaf in constants], nesting)


def _requires_grad(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict | list | tuple):  # by hand: a pytree's leaves take longer than a small step
        return any(map(_requires_grad, value.values() if isinstance(value, dict) else value))
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree.leaves(value))


def _filled(leaves: list[object], tensors: tuple[Tensor, ...]) -> list[object]:
    rest = iter(tensors)
    return [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]


class _Underived(torch.autograd.Function):
    """In-place arithmetic and ``.item()`` run as they are: inside, a tensor is not a functorch wrapper."""

    generate_vmap_rule = False

    @staticmethod
    def forward(run: Callable[..., tuple[Tensor, ...]], *operands: Tensor) -> tuple[Tensor, ...]:
        return run(*operands)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[object, ...], output: object) -> None:
        """Nothing is kept: there is no backward."""

    @staticmethod
    def backward(ctx: object, *cotangents: object) -> Any:
        raise NotImplementedError(_REMEDY)

    @staticmethod
    def jvp(ctx: object, *tangents: object) -> Any:
        raise NotImplementedError(_REMEDY)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], run: object, *operands: Tensor) -> Any:
        each = []
        for i in range(info.batch_size):
            dims = zip(operands, in_dims[1:], strict=True)
            ith = [x if dim is None else x.select(dim, i) for x, dim in dims]
            each.append(_Underived.apply(run, *ith))  # type: ignore[no-untyped-call]
        results = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
        return results, (0,) * len(results)
