"""The derivative formulas that a loss runs, as autograd names them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.autograd.function import once_differentiable

from alpha_func import tree
from alpha_func.tree import Tree

ONCE = "[once_differentiable]"  # after the name of an autograd.Function whose backward is marked so


_ONCE_CODE = once_differentiable(lambda ctx: None).__code__


def derivative_nodes(
    loss: Callable[..., Tensor], params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> set[str]:
    """The derivative formulas between the loss and its parameters, as autograd names them: one forward pass."""
    with torch.enable_grad():
        return nodes_of(loss(requiring_grad(params), *args, **kwargs))


def requiring_grad(params: Tree) -> Tree:
    """Clones of the parameters at which a graph begins: what lies in the memory of the originals is none of them."""
    return tree.map(_requiring_grad, params)


def nodes_of(value: Any) -> set[str]:
    """The derivative formulas that a value has been made by, as autograd names them."""
    if not isinstance(value, Tensor):
        return set()  # no loss, which the transform says
    roots = [value.grad_fn]  # each level of grad has a graph of its own
    while is_functorch_wrapped_tensor(value):
        value = get_unwrapped(value)
        roots.append(value.grad_fn)
    names: set[str] = set()
    waiting, seen = roots, set(roots)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        # Batch normalisation in eval mode is another formula under the same name.
        mode = "[training]" if getattr(node, "_saved_training", False) else ""
        names.add(node.name().removeprefix("torch::autograd::") + (ONCE if _is_once(node) else mode))
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return names - {"AccumulateGrad"}


def _is_once(node: Any) -> bool:
    """Whether a node is an autograd.Function with a ``once_differentiable`` backward, under a transform too."""
    backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
    for cell in getattr(backward, "__closure__", None) or ():  # torch.func makes a Function that calls the user's
        inner = getattr(cell.cell_contents, "backward", None)
        backward = inner if isinstance(cell.cell_contents, type) and inner is not None else backward
    return getattr(backward, "__code__", None) is _ONCE_CODE


def _requiring_grad(leaf: Tensor) -> Tensor:
    if peek_interpreter_stack() is None:
        return leaf.detach().clone().requires_grad_()
    # Under vmap or grad, autograd's own graph lies beneath the transform's: it starts at a plain tensor.
    return leaf + torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device, requires_grad=True)
