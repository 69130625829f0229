"""Dropout whose mask is that of a plain call, under torch.func too.

A plain call fills the mask of a tensor in the order in which the tensor lies in memory; inside torch.func, PyTorch's
own replacement of dropout fills it in the order of its indices. Where the two orders differ (a transposed activation,
the output of ``nn.MultiheadAttention``), the loss that is differentiated would be another than the one that is called.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

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


BY_FUNCTION: dict[Any, Callable[..., Tensor]] = {
    F.dropout: dropout,
    torch.dropout: dropout,
    F.alpha_dropout: alpha_dropout,
    torch.alpha_dropout: alpha_dropout,
}


class PlainMasks(TorchFunctionMode):
    """Within, dropout draws the masks of a plain call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call, with dropout replaced."""
        return BY_FUNCTION.get(func, func)(*args, **(kwargs or {}))


def _mask(x: Tensor, p: float, training: bool) -> Tensor | None:
    """1 where x is kept; None where memory lies in the order of the indices, or nothing is drawn."""
    if not training or not 0 < p < 1 or x.layout is not torch.strided:
        return None
    strides = torch.empty_like(x.detach()).stride()  # those of the mask of a plain call
    order = sorted(range(x.ndim), key=lambda dim: -strides[dim])
    if order == list(range(x.ndim)):
        return None
    mask = torch.bernoulli(x.detach().new_empty([x.shape[dim] for dim in order]), 1 - p)
    return mask.permute([order.index(dim) for dim in range(x.ndim)])
