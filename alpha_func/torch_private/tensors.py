"""Lists of tensors in one call, tensors without data, and the memory that one is in."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


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


def fake_tensor(
    shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, device: torch.device, mode: FakeTensorMode
) -> Tensor:
    """A fake tensor with memory of its own, without a call through the dispatcher of ``mode``."""
    return FakeTensor(mode, torch.empty_strided(shape, stride, dtype=dtype, device="meta"), device)


def fake_view(
    of: Tensor, shape: Sequence[int], stride: Sequence[int], offset: int, dtype: torch.dtype, mode: FakeTensorMode
) -> Tensor:
    """A fake tensor in the memory of another fake one, likewise."""
    meta = torch.empty(0, dtype=dtype, device="meta").set_(of.untyped_storage(), offset, shape, stride)
    return FakeTensor(mode, meta, of.device)
