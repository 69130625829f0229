"""Compositions of operators that PyTorch differentiates wrongly at a zero or a tie.

At a zero a second derivative may exist that PyTorch's formula misses. Where two operands tie there is none, and it is a
convention which of them a derivative follows: PyTorch's gradient and its forward mode part. These follow its gradient.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alpha_func.calls import Function

aten = torch.ops.aten

# Zeros.


def huber_loss(x: Tensor, target: Tensor, reduction: int = 1, delta: float = 1.0) -> Tensor:
    """½·r² near 0, r the residual itself: PyTorch's composition squares |r|, which has no derivative at 0."""
    return _of_residual(x, target, reduction, delta, lambda r: 0.5 * (r * r), lambda size: delta * (size - 0.5 * delta))


def smooth_l1_loss(x: Tensor, target: Tensor, reduction: int = 1, beta: float = 1.0) -> Tensor:
    """½·r²/β near 0, r the residual itself."""
    return _of_residual(x, target, reduction, beta, lambda r: 0.5 / beta * (r * r), lambda size: size - 0.5 * beta)


def _of_residual(
    x: Tensor,
    target: Tensor,
    reduction: int,
    width: float,
    near: Callable[[Tensor], Tensor],
    far: Callable[[Tensor], Tensor],
) -> Tensor:
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    r = x.to(wide) - target.to(wide)
    # relu changes nothing where the residual is that far, and says that no loss is negative (``magnitudes``).
    losses = torch.where(r.abs() < width, near(r), far(r.abs()).relu()) if width else r.abs()
    return (losses, losses.mean(), losses.sum())[reduction].to(x.dtype)


def sinc(x: Tensor) -> Tensor:
    """sin(πx)/πx, and near 0 its series: PyTorch's derivatives of the quotient are nan at 0 and cancel near it."""
    u = math.pi * x
    near = u.detach().abs() < 0.5
    square = u * u
    series = torch.ones_like(u)
    for k in range(8, 0, -1):  # up to u¹⁶/17!, below rounding where u < ½
        series = 1 - series * square / (2 * k * (2 * k + 1))
    away = torch.where(near, 1, u)
    return torch.where(near, series, away.sin() / away)


def vector_norm(
    x: Tensor,
    order: float = 2,
    dims: list[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """(Σ|x|ᵖ)^(1/p) for a p that has no formula of its own, 0 where all are: PyTorch's second derivative is nan there,
    and where an entry is 0."""
    if dtype is not None or not 1 < order < math.inf or order == 2 or x.dtype in (torch.float16, torch.bfloat16):
        return NotImplemented
    dims = list(range(x.ndim)) if dims is None or not len(dims) else dims
    total = aten.sum.dim_IntList(x.abs() ** order, dims, keepdim)
    nothing = total == 0
    return torch.where(nothing, 0, torch.where(nothing, 1, total) ** (1 / order))


def dist(x: Tensor, y: Tensor, order: float = 2) -> Tensor:
    """The norm of x − y."""
    return aten.linalg_vector_norm.default(x - y, order)


def cumprod(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Products of what comes before: nothing is divided by an entry, which may be 0."""
    return _scanned(x if dtype is None else x.to(dtype), dim, torch.mul)


def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """Of what comes before: PyTorch's forward mode divides by sums that it adds 1e-13 to."""
    return NotImplemented if x.is_complex() else _scanned(x, dim, torch.logaddexp)


def _scanned(x: Tensor, dim: int, of_two: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """All that comes before each entry and it itself, by an associative function of two, doubled in length."""
    size = x.shape[dim] if x.ndim else 1
    reach = 1
    while reach < size:
        rest = size - reach
        x = torch.cat([x.narrow(dim, 0, reach), of_two(x.narrow(dim, reach, rest), x.narrow(dim, 0, rest))], dim)
        reach *= 2
    return x


def prod(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """The product of every entry."""
    return prod_along(x.reshape(-1), 0, dtype=dtype)


def prod_along(x: Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    """One half times the other, and again: PyTorch's third derivative is wrong where an entry is 0."""
    x = x if dtype is None else x.to(dtype)
    if x.ndim == 0 or x.shape[dim] == 0 or not (x.is_floating_point() or x.is_complex()):
        return NotImplemented
    while (size := x.shape[dim]) > 1:
        half = size // 2
        halves = x.narrow(dim, 0, half) * x.narrow(dim, half, half)
        x = torch.cat([halves, x.narrow(dim, 2 * half, 1)], dim) if size % 2 else halves
    return x if keepdim else x.squeeze(dim)


# Ties.


def copysign(x: Tensor, y: Tensor | float) -> Tensor:
    """|x| with the sign of y."""
    sign = torch.where(torch.signbit(y), -1, 1) if isinstance(y, Tensor) else math.copysign(1, y)
    return x.abs() * sign


def fmax(x: Tensor, y: Tensor) -> Tensor:
    """The greater, the first one of equals; a number rather than nan."""
    return torch.where((x >= y) | y.isnan(), x, y)


def fmin(x: Tensor, y: Tensor) -> Tensor:
    """The smaller, the first one of equals; a number rather than nan."""
    return torch.where((x <= y) | y.isnan(), x, y)


def clamp(x: Tensor, least: Tensor | None = None, greatest: Tensor | None = None) -> Tensor:
    """x where it is within the bounds or on one."""
    if least is not None:
        x = torch.where((x < least) | least.isnan(), least, x)
    return x if greatest is None else torch.where((x > greatest) | greatest.isnan(), greatest, x)


def clamp_max(x: Tensor, greatest: Tensor) -> Tensor:
    """x where it is within the bound or on it."""
    return clamp(x, None, greatest)


def hardsigmoid(x: Tensor) -> Tensor:
    """(x + 3)/6 between −3 and 3, a constant from these on."""
    return torch.where((x <= -3) | (x >= 3), (x >= 3).to(x.dtype), (x + 3) / 6)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x where it is positive, weight·x elsewhere."""
    return torch.where(x > 0, x, weight * x)


BY_OPERATOR: dict[Function, Function] = {
    aten._prelu_kernel.default: prelu,
    aten.clamp.Tensor: clamp,
    aten.clamp_max.Tensor: clamp_max,
    aten.clamp_max.default: lambda x, greatest: aten.clamp.default(x, None, greatest),
    aten.clamp_min.Tensor: clamp,
    aten.clamp_min.default: aten.clamp.default,
    aten.copysign.Scalar: copysign,
    aten.copysign.Tensor: copysign,
    aten.cumprod.default: cumprod,
    aten.dist.default: dist,
    aten.fmax.default: fmax,
    aten.fmin.default: fmin,
    aten.hardsigmoid.default: hardsigmoid,
    aten.huber_loss.default: huber_loss,
    aten.linalg_vector_norm.default: vector_norm,
    aten.logcumsumexp.default: logcumsumexp,
    aten.prod.default: prod,
    aten.prod.dim_int: prod_along,
    aten.sinc.default: sinc,
    aten.smooth_l1_loss.default: smooth_l1_loss,
}
