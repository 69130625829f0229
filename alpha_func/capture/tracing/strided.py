"""``as_strided`` as entries of its operand: what lies in memory beside a tensor, and where, no program knows.

Entry i of the view lies at offset + Σ iₖ·strideₖ of the memory, entry j of its operand x at offset_x + Σ jₖ·stride_xₖ.
"""

import torch
from torch import Tensor

from alpha_func.calls import Function
from alpha_func.errors import CaptureError

aten = torch.ops.aten


def as_strided(x: Tensor, size: list[int], stride: list[int], offset: int | None = None) -> Tensor:
    """x.flatten()[j(i)], a copy."""
    x = x[tuple(0 if x.stride(d) == 0 and x.shape[d] > 0 else slice(None) for d in range(x.ndim))]  # what is expanded
    first = 0 if offset is None else offset - int(x.storage_offset())
    last = first + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size:
        return x.new_empty(size) + x.sum() * 0
    dims = sorted((d for d in range(x.ndim) if x.shape[d] > 1), key=lambda d: -x.stride(d))
    if first < 0 or last > sum((x.shape[d] - 1) * x.stride(d) for d in dims):
        raise CaptureError("as_strided reads memory that is not its operand's: index the tensor that it belongs to")
    at = torch.full((1,) * len(size), first, device=x.device)
    for k, (n, step) in enumerate(zip(size, stride, strict=True)):
        at = at + (torch.arange(n, device=x.device) * step).reshape([-1 if i == k else 1 for i in range(len(size))])
    if [x.stride(d) for d in dims] != _dense([x.shape[d] for d in dims]):
        at = _places(x, dims, at)
    by_memory = x.permute([*dims, *(d for d in range(x.ndim) if d not in dims)])
    return by_memory.reshape(-1)[at.reshape(-1)].reshape(size)


def _dense(shape: list[int]) -> list[int]:
    strides = [1]
    for n in reversed(shape):
        strides.insert(0, strides[0] * n)
    return strides[1:]


def _places(x: Tensor, dims: list[int], at: Tensor) -> Tensor:
    """Which entry lies there, in the order of memory; out of range, an error, where none does."""
    found, rest = torch.zeros_like(at), at
    for d in dims:
        j = rest // x.stride(d)
        rest = rest - j * x.stride(d)
        found = found * x.shape[d] + j + (j >= x.shape[d]) * x.numel()
    return found + (rest != 0) * x.numel()


BY_OPERATOR: dict[object, Function] = {
    aten.as_strided.default: as_strided,
    aten.as_strided_copy.default: as_strided,
}
