"""What is written to places: PyTorch's pullbacks give an entry that another was written over its part of the gradient,
count places by their values, or have no second derivative."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from alpha_func.calls import Function

aten = torch.ops.aten


def put(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """x with values written to places along the last dimension, in order: of two at one place, the last one stays."""
    if not places.shape[-1]:
        return x
    order = torch.arange(places.shape[-1], device=x.device).expand(places.shape)
    last = torch.full(x.shape, -1, device=x.device).scatter_reduce(-1, places, order, "amax")
    return torch.where(last < 0, x, values.gather(-1, last.clamp(min=0)))


def max_unpool(x: Tensor, indices: Tensor, size: list[int], *_: list[int]) -> Tensor:
    """Maxima at the places that they were at, where windows that overlap have one in common."""
    planes = x.shape[: x.ndim - len(size)]
    maxima, places = (each.reshape(*planes, math.prod(x.shape[len(planes) :])) for each in (x, indices))
    return put(x.new_zeros(*planes, math.prod(size)), places, maxima).reshape(*planes, *size)


def index_fill(x: Tensor, dim: int, index: Tensor, value: Tensor) -> Tensor:
    """A choice between x and the value."""
    size = x.shape[dim] if x.ndim else 1
    filled = torch.zeros(size, dtype=torch.bool, device=x.device).index_fill(0, index, True)
    return torch.where(filled.reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)]), value.to(x.dtype), x)


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Sums, means and products in operators that have second derivatives; extremes have PyTorch's own."""
    if reduce in ("amax", "amin") or not x.is_floating_point():
        return NotImplemented
    if x.ndim == 0:
        row, places, values = (t.reshape(-1) for t in (x, index, src))
        return scatter_reduce(row, 0, places, values, reduce, include_self=include_self).reshape(())
    src = src[tuple(slice(size) for size in index.shape)]
    own = torch.ones_like(x)  # how often x itself counts
    if not include_self:
        own = own.scatter(dim, index, 0)
    if reduce == "prod":  # of all places at once, which takes their number times the memory
        places = torch.arange(x.shape[dim], device=x.device).reshape(-1, *[1] * x.ndim)
        factors = torch.where(index == places, src, 1).prod(dim % x.ndim + 1).movedim(0, dim)
        beyond = [n for size, full in zip(factors.shape[::-1], x.shape[::-1], strict=True) for n in (0, full - size)]
        return torch.where(own != 0, x, 1) * F.pad(factors, beyond, value=1.0)
    total = torch.where(own != 0, x, 0).scatter_add(dim, index, src)
    return total if reduce == "sum" else total / own.scatter_add(dim, index, torch.ones_like(src))


def index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """``scatter_reduce`` of whole slices."""
    if reduce in ("amax", "amin") or not x.is_floating_point():
        return NotImplemented
    places = index.reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)]).expand(source.shape)
    return aten.scatter_reduce.two(x, dim, places, source, reduce, include_self=include_self)


_OF_SEGMENTS = {"max": ("amax", -math.inf), "min": ("amin", math.inf), "prod": ("prod", 1.0)}


def segment_reduce(
    data: Tensor,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    indices: Tensor | None = None,
    offsets: Tensor | None = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: float | None = None,
) -> Tensor:
    """``scatter_reduce`` to the segment of each entry, from ``initial`` on; the mean of nothing is nan."""
    if lengths is None and offsets is None:
        return NotImplemented
    ends = lengths.cumsum(-1) if offsets is None else offsets[..., 1:]  # type: ignore[union-attr]
    sizes = lengths if offsets is None else offsets.diff()
    shape, count = list(data.shape), ends.shape[-1]
    segment = (torch.arange(shape[axis], device=data.device)[:, None] >= ends[..., None, :]).sum(-1)
    rest = [1] * (data.ndim - axis - 1)
    how, start = _OF_SEGMENTS.get(reduce, ("sum", 0.0))
    start = start if initial is None else initial
    begun = data.new_full((*shape[:axis], count + 1, *shape[axis + 1 :]), start)  # the last: what is in no segment
    where = segment.reshape(*segment.shape, *rest).expand(shape)
    found = aten.scatter_reduce.two(begun, axis, where, data, how).narrow(axis, 0, count)
    if reduce != "mean":
        return found
    sizes = sizes.reshape(*sizes.shape, *rest)  # type: ignore[union-attr]
    return torch.where(sizes > 0, found / sizes.clamp(min=1), math.nan if initial is None else initial)


BY_OPERATOR: dict[Function, Function] = {
    aten.index_fill.int_Tensor: index_fill,
    aten.index_reduce.default: index_reduce,
    aten.max_unpool2d.default: max_unpool,
    aten.max_unpool3d.default: max_unpool,
    aten.scatter_reduce.two: scatter_reduce,
    aten.segment_reduce.default: segment_reduce,
}
