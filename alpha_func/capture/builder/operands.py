"""What the laws ask of an operand, and the tensors of one number."""

from collections.abc import Sequence

import torch
from torch import fx

from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.values import Operator, Value

aten = torch.ops.aten

Number = bool | int | float | complex


def shape_of(x: Value) -> tuple[int, ...]:
    """The shape; () of a number."""
    return tuple(x.meta["val"].shape) if isinstance(x, fx.Node) else ()


def dtype_of(x: Value) -> torch.dtype | None:
    """The dtype; None of a number, which takes that of its tensors."""
    return x.meta["val"].dtype if isinstance(x, fx.Node) else None


def is_call(x: Value, target: Operator) -> bool:
    """Whether x is a call of this operator."""
    return isinstance(x, fx.Node) and x.target is target


def is_zero(x: Value) -> bool:
    """Whether x is a symbolic zero."""
    return is_filled(x) and x.args[1] == 0


def is_number(x: Value) -> bool:
    """Whether x is a Python number."""
    return isinstance(x, (int, float, complex)) and not isinstance(x, bool)


def is_filled(x: Value) -> bool:
    """Whether x is a tensor of one number."""
    return is_call(x, aten.full.default)


def is_inexact(x: Value) -> bool:
    """Whether x is of floating point, real or complex: algebra holds for it (integers wrap around, and the sum of two
    bools is a bool), and it can have a tangent; of several tensors, whether one is."""
    val = x.meta.get("val") if isinstance(x, fx.Node) else x  # none of a check, which gives nothing
    if isinstance(val, (list, tuple)):
        return any(map(is_inexact, val))
    return isinstance(val, torch.Tensor) and (val.is_floating_point() or val.is_complex())


def filled(b: Builder, shape: Sequence[Value], value: Number, dtype: torch.dtype, device: torch.device) -> fx.Node:
    """A tensor of one number: the normal form of zeros, ones and their kin; the number as its dtype holds it."""
    held = torch.full((), value, dtype=dtype, device="cpu").item()
    return b.write(aten.full.default, list(shape), held, dtype=dtype, device=device)


def filled_like(b: Builder, x: fx.Node, value: Number, shape: Sequence[Value] | None = None) -> fx.Node:
    """A tensor of one number, with the shape, dtype and device of x."""
    val = x.meta["val"]
    return filled(b, val.shape if shape is None else shape, value, val.dtype, val.device)


def conjugate(b: Builder, x: Value) -> Value:
    """The complex conjugate; a real tensor or number unchanged."""
    return b.call(aten._conj_physical.default, x) if isinstance(x, fx.Node) else x.conjugate()


def is_complex(x: Value) -> bool:
    """Whether x is a complex tensor or number."""
    return isinstance(x, complex) or (isinstance(x, fx.Node) and x.meta["val"].is_complex())


def real(b: Builder, x: Value) -> Value:
    """The real part; a real tensor unchanged."""
    return b.call(aten.select.int, b.call(aten.view_as_real.default, x), -1, 0) if is_complex(x) else x


def broadcast(b: Builder, x: Value, shape: Sequence[Value]) -> Value:
    """x in this shape."""
    return b.call(aten.expand.default, x, list(shape))


def result_shape(*operands: object) -> tuple[int, ...]:
    """The shape of operands broadcast together."""
    shapes = {shape_of(operand) for operand in operands} - {()}
    if len(shapes) < 2:  # at a fraction of what torch takes for it
        return next(iter(shapes), ())
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def result_dtype(x: Value, y: Value) -> torch.dtype:
    """The dtype of a sum or product of the two."""
    val = [operand.meta["val"] if isinstance(operand, fx.Node) else operand for operand in (x, y)]
    return torch.result_type(*val)


def converted(b: Builder, x: Value, dtype: torch.dtype) -> Value:
    """x in this dtype; a number, which takes that of its tensors, unchanged."""
    return x if dtype_of(x) in (None, dtype) else b.call(aten._to_copy.default, x, dtype=dtype)


def places(dims: Value, rank: int) -> list[int]:
    """Dimensions of a tensor of this rank, counted from the front; all, where none are given. 0-d has none."""
    return sorted({dim % rank for dim in dims}) if dims and rank else list(range(rank))


def multiple(x: Value) -> tuple[Value, Value]:
    """(y, c) with x = c·y, both in the dtype of x, which is inexact."""
    if is_call(x, aten.mul.Tensor) and is_number(x.args[1]) and is_inexact(x) and dtype_of(x.args[0]) == dtype_of(x):
        return x.args[0], x.args[1]
    return x, 1
