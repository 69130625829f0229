"""``as_strided`` as entries of its operand: what lies in memory beside a tensor, and where, no program knows.

Entry i of the view lies at offset + Σ iₖ·strideₖ of the memory, entry j of its operand x at offset_x + Σ jₖ·stride_xₖ.
"""

import torch
from torch import Tensor

from alpha_func.calls import Function
from alpha_func.errors import CaptureError
from alpha_func.torch_private import modes_disabled

aten = torch.ops.aten
_OUTSIDE = "as_strided takes memory that is not its operand's: index the tensor that it belongs to"


def as_strided(x: Tensor, size: list[int], stride: list[int], offset: int | None = None) -> Tensor:
    """x.flatten()[j(i)], a copy."""
    x = x[tuple(0 if step == 0 and n else slice(None) for n, step in zip(x.shape, x.stride(), strict=True))]  # expanded
    if 0 in size:
        return x.new_empty(size) + x.sum() * 0
    at, dims = _entries(x, size, stride, offset)
    return x.permute(dims).reshape(-1)[at.reshape(-1)].reshape(size)


def as_strided_scatter(x: Tensor, src: Tensor, size: list[int], stride: list[int], offset: int | None = None) -> Tensor:
    """x with others for its entries j(i)."""
    if any(step == 0 and n > 1 for n, step in zip(x.shape, x.stride(), strict=True)):
        return NotImplemented  # one number of its memory is many entries
    if 0 in size:
        return x.clone()
    at, dims = _entries(x, size, stride, offset)
    by_memory = x.permute(dims)
    written = by_memory.reshape(-1).scatter(0, at.reshape(-1), src.to(x.dtype).expand(size).reshape(-1))
    return written.reshape(by_memory.shape).permute([dims.index(d) for d in range(x.ndim)])


def _entries(x: Tensor, size: list[int], stride: list[int], offset: int | None) -> tuple[Tensor, list[int]]:
    """j(i) in the order of memory, and the dimensions of x in that order."""
    strides = x.stride()
    first = 0 if offset is None else offset - int(x.storage_offset())
    last = first + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    dims = sorted((d for d in range(x.ndim) if x.shape[d] > 1), key=lambda d: -strides[d])
    if first < 0 or last > sum((x.shape[d] - 1) * strides[d] for d in dims):
        raise CaptureError(_OUTSIDE)
    layout = [(x.shape[d], strides[d]) for d in dims]
    with modes_disabled():
        outside = bool((_places(size, stride, first, layout, "cpu") < 0).any())
    if outside:
        raise CaptureError(_OUTSIDE)
    return _places(size, stride, first, layout, x.device), [*dims, *(d for d in range(x.ndim) if d not in dims)]


def _places(
    size: list[int], stride: list[int], first: int, layout: list[tuple[int, int]], device: torch.device | str
) -> Tensor:
    """Which entry of the operand, in the order of memory, each entry of the view is; −1 where none lies there."""
    at = torch.full((1,) * len(size), first, device=device)
    for k, (n, step) in enumerate(zip(size, stride, strict=True)):
        at = at + (torch.arange(n, device=device) * step).reshape([-1 if i == k else 1 for i in range(len(size))])
    if layout == _dense([n for n, _ in layout]):
        return at
    found, rest = torch.zeros_like(at), at
    none = torch.zeros_like(at, dtype=torch.bool)
    for n, step in layout:
        j = torch.div(rest, step, rounding_mode="floor")
        rest, found, none = rest - j * step, found * n + j, none | (j >= n)
    return torch.where(none | (rest != 0), -1, found)


def _dense(shape: list[int]) -> list[tuple[int, int]]:
    steps = [1]
    for n in reversed(shape[1:]):
        steps.insert(0, steps[0] * n)
    return list(zip(shape, steps, strict=False))


BY_OPERATOR: dict[object, Function] = {
    aten.as_strided.default: as_strided,
    aten.as_strided_copy.default: as_strided,
    aten.as_strided_scatter.default: as_strided_scatter,
}
