"""Sums and products of rows in groups, whose sizes are values: as programs that are the same for all sizes."""

import math
from typing import Any

import torch
from torch import Tensor

from alpha_func.calls import Function
from alpha_func.errors import CaptureError

aten = torch.ops.aten


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums, means or maxima of looked-up rows, a bag from each offset to the next."""
    if scale_grad_by_freq:
        raise CaptureError(
            "embedding_bag with scale_grad_by_freq=True has no composition here; look up and reduce instead"
        )
    starts = offsets[:-1] if include_last_offset else offsets
    places = torch.arange(indices.shape[0], dtype=starts.dtype, device=starts.device)
    bag = (places.unsqueeze(1) >= starts).sum(1) - 1
    rows = aten.embedding.default(weight, indices)
    if mode == 2:
        return _largest(rows, torch.where(indices == padding_idx, len(starts), bag), len(starts)), bag, bag, bag
    counted = (indices != padding_idx).to(rows.dtype).unsqueeze(1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    out = rows.new_zeros(starts.shape[0], weight.shape[1]).index_add(0, bag, rows * counted)
    if mode == 1:
        counts = counted.new_zeros(starts.shape[0], 1).index_add(0, bag, counted)
        out = out / counts.clamp_min(1)
    return out, bag, bag, bag


def _largest(rows: Tensor, bag: Tensor, bags: int) -> Tensor:
    """In each column the first of the largest entries of each bag, whose the gradient is; 0 of an empty bag."""
    count = len(rows)
    if not count:
        return rows.new_zeros(bags, rows.shape[1])
    bag = bag[:, None].expand(rows.shape)
    largest = rows.new_full((bags + 1, rows.shape[1]), -math.inf).scatter_reduce(0, bag, rows, "amax")
    places = torch.arange(count, device=rows.device)[:, None].expand(rows.shape)
    places = torch.where(rows == largest.gather(0, bag), places, count)
    first = torch.full(largest.shape, count, device=rows.device).scatter_reduce(0, bag, places, "amin")[:bags]
    return torch.where(first < count, rows.gather(0, first.clamp(max=count - 1)), 0)


def grouped_mm(
    x: Tensor, weight: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """x_s·W_e for the rows s of each group e, which ends at ``offs[e]``; 0 after the last group. Which group a row
    is in depends on values, so a program has its products with all of them."""
    if offs is None:
        out = torch.bmm(x, weight)
    elif x.ndim == weight.ndim == 2:  # groups along what is summed over
        inside = _groups(x.shape[1], offs) == torch.arange(len(offs), device=x.device)[:, None]
        out = torch.bmm(x * inside[:, None], weight.expand(len(offs), *weight.shape))
    elif weight.ndim == 2:
        out = grouped_mm(weight.mT, x.mT, offs).mT
    else:
        group = _groups(x.shape[0], offs)
        chosen = group.clamp(max=len(offs) - 1)[None, :, None].expand(1, -1, weight.shape[-1])
        out = torch.where((group < len(offs))[:, None], torch.matmul(x, weight).gather(0, chosen)[0], 0)
    out = out if bias is None else out + bias
    return out if out_dtype is None else out.to(out_dtype)


def _groups(count: int, offs: Tensor) -> Tensor:
    """The group of each of so many places; after the last group, how many there are."""
    return (torch.arange(count, device=offs.device)[:, None] >= offs).sum(1)


BY_OPERATOR: dict[Function, Function] = {
    aten._embedding_bag.default: embedding_bag,
    aten._embedding_bag_forward_only.default: embedding_bag,
}

# Operators that other packages register, by name.
OF_OTHERS: dict[str, Function] = {"transformers::grouped_mm_fallback": grouped_mm}
