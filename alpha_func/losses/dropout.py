"""Dropout whose mask is that of a plain call, under torch.func too.

A plain call fills the mask of a tensor in the order in which the tensor lies in memory; inside torch.func, PyTorch's
own replacement of dropout fills it in the order of its indices. Where the two orders differ (a transposed activation,
the output of ``nn.MultiheadAttention``), the loss that is differentiated would be another than the one that is called.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from alpha_func.calls import Function

_ALPHA = 1.7580993408473766  # of SELU; its negative limit is −alpha


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """``F.dropout``: x·m/(1 − p), with m = 0 at probability p and else 1.

    >>> x = torch.arange(1.0, 7).reshape(2, 3).T
    >>> with torch.random.fork_rng():
    ...     plain = torch.manual_seed(0) and F.dropout(x)
    ...     torch.equal(plain, torch.manual_seed(0) and torch.func.vmap(dropout, randomness="same")(x[None])[0])
    True
    """
    mask = _mask(x, p, training)
    if mask is None:
        return F.dropout(x, p, training, inplace)
    factor = mask / (1 - p)
    return x.mul_(factor) if inplace else x * factor


def alpha_dropout(x: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """``F.alpha_dropout``: what is dropped is −alpha of SELU; scaled and shifted to keep mean and variance."""
    mask = _mask(x, p, training)
    if mask is None:
        return F.alpha_dropout(x, p, training, inplace)
    a = ((_ALPHA**2 * p + 1) * (1 - p)) ** -0.5
    factor, shift = mask * a, (mask - 1) * (_ALPHA * a) + _ALPHA * a * p
    return x.mul_(factor).add_(shift) if inplace else x * factor + shift


def bernoulli_(x: Tensor, p: float | Tensor = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """``Tensor.bernoulli_``: 1 with probability p and else 0, whatever was there before."""
    order = _memory_order(x.stride())
    if order is None or generator is not None or isinstance(p, Tensor):
        return x.bernoulli_(p, generator=generator)
    return x.copy_(_drawn(x, order, p))


# A torch function, and what stands for it.
BY_FUNCTION: dict[Function, Function] = {
    F.dropout: dropout,
    torch.dropout: dropout,
    F.alpha_dropout: alpha_dropout,
    torch.alpha_dropout: alpha_dropout,
    torch.Tensor.bernoulli_: bernoulli_,
}


def _mask(x: Tensor, p: float, training: bool) -> Tensor | None:
    """1 where x is kept; None where memory lies in the order of the indices, or nothing is drawn."""
    if not training or not 0 < p < 1 or x.layout is not torch.strided:
        return None
    order = _memory_order(torch.empty_like(x.detach()).stride())  # that of the mask of a plain call
    return None if order is None else _drawn(x, order, 1 - p)


def _memory_order(strides: tuple[int, ...]) -> list[int] | None:
    """The dimensions, the one with the longest stride first; None where that is the order they have."""
    order = sorted(range(len(strides)), key=lambda dim: -strides[dim])
    return None if order == list(range(len(strides))) else order


def _drawn(like: Tensor, order: list[int], p: float) -> Tensor:
    """Ones with probability p, drawn in an order of the dimensions."""
    # Under vmap no batched tensor may stand here: with randomness="same" there is one draw.
    empty = torch.empty([like.shape[dim] for dim in order], dtype=like.dtype, device=like.device)
    drawn = torch.bernoulli(empty, p)
    return drawn.permute([order.index(dim) for dim in range(like.ndim)])
