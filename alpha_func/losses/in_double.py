"""A loss and its arguments in double precision, for a second opinion that no rounding blurs."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alpha_func import tree
from alpha_func.losses.module_loss import ModuleLoss


def loss_in_double(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss of a module with a copy of that module in float64; any other loss takes the dtype of its arguments.

    What are arguments of the loss has no memory in the copy.
    """
    if not isinstance(loss, ModuleLoss):
        return loss
    kept = [each for module in loss.model.modules() for each in tree.leaves(list(vars(module).values()))]
    of_graphs = {id(each): each.detach().clone() for each in kept if isinstance(each, Tensor) and not each.is_leaf}
    given = {id(p): nn.Parameter(doubled(p.new_zeros(())).expand(p.shape), p.requires_grad) for _, p in loss.trained()}
    model = copy.deepcopy(loss.model, of_graphs | given).double()  # PyTorch copies no tensor that a graph has made
    for module in model.modules():
        vars(module).update({name: doubled(value) for name, value in vars(module).items()})
    return ModuleLoss(model, loss.names, loss.seed)


def is_narrow(tensor: Tensor) -> bool:
    """Whether it is in less than double precision."""
    return (tensor.is_floating_point() or tensor.is_complex()) and torch.finfo(tensor.dtype).bits < 64


def doubled(leaf: object) -> Any:
    """A floating tensor in double precision, anything else unchanged."""
    if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
        return leaf
    return leaf.to(torch.complex128 if leaf.is_complex() else torch.float64)
