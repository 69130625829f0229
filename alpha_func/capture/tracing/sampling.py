"""Entries of a volume at places between its own, which PyTorch differentiates once, and back where they were taken."""

import math
from itertools import product

import torch
from torch import Tensor

from alpha_func.calls import Function

aten = torch.ops.aten
_NEAREST = 1
_BORDER, _REFLECTION = 1, 2


def grid_sampler_3d(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """Σ_corners Π_dims w·x[corner]: w = 1 − |place − corner|, or 1 of the nearest; 0 outside."""
    n, channels, *sizes = x.shape
    places = [_place(u, size, padding, align_corners) for u, size in zip(grid.unbind(-1)[::-1], sizes, strict=True)]
    if mode == _NEAREST:
        around = [[(u.round(), torch.ones_like(u))] for u in places]
    else:
        around = [[(u.floor(), 1 - (u - u.floor())), (u.floor() + 1, u - u.floor())] for u in places]
    entries, found = x.reshape(n, channels, -1), x.new_zeros(n, channels, *grid.shape[1:-1])
    for corner in product(*around):
        index, weight = torch.zeros_like(places[0], dtype=torch.long), torch.ones_like(places[0])
        for (at, w), size in zip(corner, sizes, strict=True):
            weight = weight * torch.where((at >= 0) & (at < size), w, 0.0)
            index = index * size + at.clamp(0, size - 1).long()
        taken = entries.gather(2, index.reshape(n, 1, -1).expand(-1, channels, -1))
        found = found + taken.reshape(found.shape) * weight[:, None]
    return found


def _place(u: Tensor, size: int, padding: int, align_corners: bool) -> Tensor:
    """From [−1, 1] to [0, size − 1], or half an entry more at either end; what is outside comes to the border."""
    span, first = (size - 1, 0.0) if align_corners else (size, -0.5)
    u = (u + 1) * (span / 2) + first
    if padding == _REFLECTION:
        if span == 0:
            return torch.zeros_like(u)
        far = (u - first).abs()
        rest = torch.fmod(far, span)
        u = torch.where((far / span).floor() % 2 == 0, rest, span - rest) + first
    return u.clamp(0, size - 1) if padding in (_BORDER, _REFLECTION) else u


def max_unpool(x: Tensor, places: Tensor, size: list[int], *_: object) -> Tensor:
    """Zeros, but x at its places of the last dims."""
    whole = x.ndim - len(size)
    empty = x.new_zeros(*x.shape[:whole], math.prod(size))
    return empty.scatter(-1, places.flatten(whole), x.flatten(whole)).reshape(*x.shape[:whole], *size)


BY_OPERATOR: dict[object, Function] = {
    aten.grid_sampler_3d.default: grid_sampler_3d,
    aten.max_unpool2d.default: max_unpool,
    aten.max_unpool3d.default: max_unpool,
}
