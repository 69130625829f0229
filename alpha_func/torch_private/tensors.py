"""Lists of tensors in one call, and the memory that a tensor is in."""

from collections.abc import Iterable

import torch
from torch import Tensor


def added(tensors: Iterable[Tensor], others: Iterable[Tensor], alpha: float) -> tuple[Tensor, ...]:
    """x + alpha·y of each pair."""
    return tuple(torch._foreach_add(list(tensors), list(others), alpha=alpha))


def subtracted(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """x − y of each pair."""
    return tuple(torch._foreach_sub(list(tensors), list(others)))


def norms(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """‖x‖ of each."""
    return tuple(torch._foreach_norm(list(tensors)))


def memory_id(tensor: Tensor) -> int:
    """What tells the memory of a tensor from any other; a fake tensor has such, too."""
    return int(tensor.untyped_storage()._cdata)
