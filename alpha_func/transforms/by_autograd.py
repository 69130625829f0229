"""Double backward by autograd alone, for a loss that does not run under torch.func.

    value, g = L(θ), ∇L(θ)      Hd = ∂(gᵀd)/∂θ

Under a transform PyTorch refuses an inner ``torch.autograd.grad`` and a packed sequence; called plainly, the same loss
has its derivatives. The numbers carry no graph: who differentiates α* in turn needs a loss that torch.func can run. An
activation checkpoint is refused here too: it would compute again with the module's own parameters, not with θ.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.losses.module_loss import Watched
from alpha_func.quadratic import Quadratic
from alpha_func.torch_private import forward_level, peek_interpreter_stack
from alpha_func.transforms.directions import DirectionFunction
from alpha_func.transforms.strategies import Loss, Products, Step, Strategy, ValueSlopeProduct
from alpha_func.tree import Tree


def applies(params: Tree) -> bool:
    """Whether nobody batches or differentiates the call."""
    if peek_interpreter_stack() is not None or forward_level() >= 0:
        return False
    return not (torch.is_grad_enabled() and any(leaf.requires_grad for leaf in tree.leaves(params)))


def _value_slope_product(loss: Loss, params: Tree, direction: Tree) -> ValueSlopeProduct:
    grads, d, value, hd = _double_backward(loss, params, lambda _: direction)
    return value, tree.vdot(d, grads), hd


def _quadratic(loss: Loss, params: Tree, direction: Tree) -> Quadratic:
    return _step(loss, params, lambda _: direction).quadratic


def _step(loss: Loss, params: Tree, direction: DirectionFunction) -> Step:
    grads, d, value, hd = _double_backward(loss, params, direction)
    return Step(grads, d, Quadratic(value, tree.vdot(d, grads), tree.vdot(d, hd)))


def _double_backward(loss: Loss, params: Tree, direction: DirectionFunction) -> tuple[Tree, Tree, Tensor, Tree]:
    """g, d, L(θ), Hd."""
    no_checkpoints = torch.autograd.graph.disable_saved_tensors_hooks("saved tensor hooks may compute at another θ")
    with torch.inference_mode(False), torch.enable_grad(), no_checkpoints:
        at = tree.map(lambda leaf: (leaf.clone() if leaf.is_inference() else leaf.detach()).requires_grad_(), params)
        return double_backward(loss, at, direction)


def double_backward(loss: Loss, params: Tree, direction: DirectionFunction) -> tuple[Tree, Tree, Tensor, Tree]:
    """g, d, L(θ), Hd at parameters that autograd records; a checkpoint computes again with the module's own."""
    leaves, structure = tree.flatten(params)
    with Watched():
        value = loss(params)
    slopes = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
    grads = tree.unflatten([g.detach() for g in slopes], structure)
    d = direction(grads)
    bent = [(g, v) for g, v in zip(slopes, tree.leaves(d), strict=True) if g.requires_grad]
    if not bent:  # a loss that is linear in its parameters
        return grads, d, value.detach(), tree.zeros_like(grads)
    hd = torch.autograd.grad([g for g, _ in bent], leaves, [v for _, v in bent], materialize_grads=True)
    return grads, d, value.detach(), tree.unflatten(list(hd), structure)


def _products(loss: Loss, params: Tree, directions: Sequence[Tree]) -> Products:
    def each(d: Tree) -> tuple[Tree, Tree, Tensor, Tree]:
        return _double_backward(loss, params, lambda _: d)

    found = list(map(each, directions))
    grads, _, value, _ = found[0]
    return Products(value, grads, [hd for *_, hd in found])


BY_AUTOGRAD = Strategy("reverse_over_reverse", _quadratic, _value_slope_product, _step, _products)
