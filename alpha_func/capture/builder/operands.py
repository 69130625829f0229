"""What the laws ask of an operand, and the tensors of one number."""

from typing import Any

import torch
from torch import fx

from alpha_func.capture.builder.builder import Builder

aten = torch.ops.aten


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape; () of a number."""
    return tuple(x.meta["val"].shape) if isinstance(x, fx.Node) else ()


def dtype_of(x: Any) -> torch.dtype | None:
    """The dtype; None of a number, which takes that of its tensors."""
    return x.meta["val"].dtype if isinstance(x, fx.Node) else None


def is_call(x: Any, target: Any) -> bool:
    """Whether x is a call of this operator."""
    return isinstance(x, fx.Node) and x.target is target


def is_zero(x: Any) -> bool:
    """Whether x is a symbolic zero."""
    return is_call(x, aten.full.default) and x.args[1] == 0


def is_number(x: Any) -> bool:
    """Whether x is a Python number."""
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def filled(b: Builder, shape: Any, value: float, dtype: Any, device: Any) -> fx.Node:
    """A tensor of one number: the normal form of zeros, ones and their kin."""
    return b.write(aten.full.default, list(shape), value, dtype=dtype, device=device)


def filled_like(b: Builder, x: fx.Node, value: float, shape: Any = None) -> fx.Node:
    """A tensor of one number, with the shape, dtype and device of x."""
    val = x.meta["val"]
    return filled(b, val.shape if shape is None else shape, value, val.dtype, val.device)


def broadcast(b: Builder, x: Any, shape: Any) -> Any:
    """x in this shape."""
    return b.call(aten.expand.default, x, list(shape))


def result_shape(*operands: Any) -> tuple[int, ...]:
    """The shape of operands broadcast together."""
    return tuple(torch.broadcast_shapes(*map(shape_of, operands)))  # type: ignore[no-untyped-call]


def result_dtype(x: Any, y: Any) -> torch.dtype:
    """The dtype of a sum or product of the two."""
    val = [operand.meta["val"] if isinstance(operand, fx.Node) else operand for operand in (x, y)]
    return torch.result_type(*val)


def places(dims: Any, rank: int) -> list[int]:
    """Dimensions of a tensor of this rank, counted from the front; all, where none are given. 0-d has none."""
    return sorted({dim % rank for dim in dims}) if dims and rank else list(range(rank))


def multiple(x: Any) -> tuple[Any, float]:
    """(y, c) with x = c·y."""
    if is_call(x, aten.mul.Tensor) and is_number(x.args[1]):
        return x.args[0], x.args[1]
    return x, 1
