"""Tensors of one number have one form, `full`."""

from typing import Any

import torch
from torch import fx

from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.operands import filled, is_number
from alpha_func.capture.rewrites.table import law

aten = torch.ops.aten


def _fill_of(value: float) -> Law:
    def constructor_is_a_fill(b: Builder, args: Any, kwargs: Any) -> Any:
        """zeros(n) = zeros_like(x) = new_zeros(x, n) = full(n, 0), and so for ones."""
        like = args[0] if args and isinstance(args[0], fx.Node) else None
        if like is not None:
            val = like.meta["val"]
            shape = args[1] if len(args) > 1 else val.shape
            dtype, device = kwargs.get("dtype") or val.dtype, kwargs.get("device") or val.device
        else:
            shape, dtype = args[0], kwargs.get("dtype") or torch.get_default_dtype()
            device = kwargs.get("device") or torch.device("cpu")
        return filled(b, shape, value, dtype, device)

    return constructor_is_a_fill


law(aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten._efficientzerotensor.default)(_fill_of(0))
law(aten.ones.default, aten.ones_like.default, aten.new_ones.default)(_fill_of(1))


@law(aten.full.default)
def fills_have_one_form(b: Builder, args: Any, kwargs: Any) -> Any:
    """full(n, c), its dtype and device said, and nothing else."""
    if not is_number(args[1]) or kwargs.get("dtype") is None:
        return None
    return filled(b, args[0], args[1], kwargs["dtype"], kwargs.get("device") or torch.device("cpu"))


@law(aten.scalar_tensor.default)
def scalar_tensors_are_fills(b: Builder, args: Any, kwargs: Any) -> Any:
    """scalar_tensor(c) = full((), c)."""
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    return filled(b, (), args[0], dtype, kwargs.get("device") or torch.device("cpu"))


@law(aten.full_like.default)
def full_like_is_a_fill(b: Builder, args: Any, kwargs: Any) -> Any:
    """full_like(x, c) = full(shape of x, c)."""
    if not is_number(args[1]):
        return None
    val = args[0].meta["val"]
    return filled(b, val.shape, args[1], kwargs.get("dtype") or val.dtype, kwargs.get("device") or val.device)
