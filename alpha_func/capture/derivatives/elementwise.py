"""Functions of one number: v₁ = f′·t, D² = f″·t². Many have f″ = f′·r, and then D² = v₁·t·r."""

import math
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn import functional as F

from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.builder.values import Value
from alpha_func.capture.derivatives.registrars import closed_form, elementwise, zero_where_still
from alpha_func.capture.derivatives.rule import Call, Case, Squares, Tangents

aten = torch.ops.aten


def _affine(b: Builder, x: Value, scale: float, shift: float) -> Value:
    return plus(b, times(b, x, scale), shift)


def _positive(f: Case) -> Case:
    return lambda x: f(x * x + 0.5)


elementwise(
    aten.tanh.default,
    lambda b, x, y: _affine(b, times(b, y, y), -1, 1),
    ratio=lambda b, x, y: times(b, y, -2),
    case=torch.tanh,
)
elementwise(
    aten.sigmoid.default,
    lambda b, x, y: times(b, y, _affine(b, y, -1, 1)),
    ratio=lambda b, x, y: _affine(b, y, -2, 1),
    case=torch.sigmoid,
)
elementwise(aten.exp.default, lambda b, x, y: y, ratio=lambda b, x, y: 1, case=torch.exp)
elementwise(
    aten.sin.default,
    lambda b, x, y: b.call(aten.cos.default, x),
    bend=lambda b, x, y: times(b, y, -1),
    case=torch.sin,
)
elementwise(
    aten.cos.default,
    lambda b, x, y: times(b, b.call(aten.sin.default, x), -1),
    bend=lambda b, x, y: times(b, y, -1),
    case=torch.cos,
)
elementwise(
    aten.log.default,
    lambda b, x, y: b.call(aten.reciprocal.default, x),
    ratio=lambda b, x, y: times(b, b.call(aten.reciprocal.default, x), -1),
    case=_positive(torch.log),
)
elementwise(
    aten.reciprocal.default,
    lambda b, x, y: times(b, y, y, -1),
    ratio=lambda b, x, y: times(b, y, -2),
    case=_positive(torch.reciprocal),
)
elementwise(
    aten.rsqrt.default,
    lambda b, x, y: times(b, times(b, y, y), y, -0.5),
    ratio=lambda b, x, y: times(b, y, y, -1.5),
    case=_positive(torch.rsqrt),
)
elementwise(
    aten.sqrt.default,
    lambda b, x, y: times(b, b.call(aten.reciprocal.default, y), 0.5),
    ratio=lambda b, x, y: times(b, b.call(aten.reciprocal.default, x), -0.5),
    singular=True,
    case=_positive(torch.sqrt),
)
elementwise(
    aten.erf.default,
    lambda b, x, y: times(b, b.call(aten.exp.default, times(b, x, x, -1)), 2 / math.sqrt(math.pi)),
    ratio=lambda b, x, y: times(b, x, -2),
    case=torch.erf,
)


def _silu_parts(b: Builder, x: Value) -> tuple[Value, Value, Value]:
    """σ(x), 1 − σ(x), x·(1 − σ(x))."""
    sigma = b.call(aten.sigmoid.default, x)
    rest = _affine(b, sigma, -1, 1)
    return sigma, rest, times(b, x, rest)


def _silu_slope(b: Builder, x: Value, y: Value) -> Value:
    """f = x·σ: f′ = σ·(1 + x·(1 − σ))."""
    sigma, _, linear = _silu_parts(b, x)
    return times(b, sigma, plus(b, linear, 1))


def _silu_bend(b: Builder, x: Value, y: Value) -> Value:
    """f = x·σ: f″ = σ·(1 − σ)·(2 + x·(1 − 2σ)) = σ·(1 − σ)·(2 + x·(1 − σ) − f)."""
    sigma, rest, linear = _silu_parts(b, x)
    return times(b, times(b, sigma, rest), plus(b, plus(b, linear, times(b, y, -1)), 2))


elementwise(aten.silu.default, _silu_slope, bend=_silu_bend, case=F.silu)


def _gelu(b: Builder, call: Call, t: Tangents) -> Value:
    """f = x·Φ(x): v₁ = gelu_backward(t, x), a kernel."""
    return b.call(aten.gelu_backward.default, t[0], call.args[0], **call.kwargs)


def _gelu_second(b: Builder, call: Call, t: Tangents) -> Value:
    """f = x·Φ(x): f″ = φ(x)·(2 − x²)."""
    if call.kwargs.get("approximate", "none") != "none":
        return NotImplemented
    square, density = _density(b, call.args[0])
    return times(b, times(b, t[0], t[0]), times(b, density, _affine(b, square, -1, 2)))


def _density(b: Builder, x: Value) -> tuple[Value, Value]:
    """x² and φ(x)."""
    square = times(b, x, x)
    return square, times(b, b.call(aten.exp.default, times(b, square, -0.5)), 1 / math.sqrt(2 * math.pi))


def _gelu_diagonal(b: Builder, call: Call, λ: Value) -> Squares:
    if call.kwargs.get("approximate", "none") != "none":
        return NotImplemented
    square, density = _density(b, call.args[0])
    return times(b, λ, density, _affine(b, square, -1, 2)), itemgetter(0)


closed_form(_gelu, _gelu_second, {aten.gelu.default: F.gelu}, diagonal=_gelu_diagonal)


def _pow(b: Builder, call: Call, t: Tangents) -> Value:
    """v₁ = n·xⁿ⁻¹·t."""
    x, n = call.args
    if n == 0:
        return None
    found = times(b, t[0], b.call(aten.pow.Tensor_Scalar, x, n - 1), n)
    return zero_where_still(b, t[0], found) if 0 < n < 1 else found


def _pow_second(b: Builder, call: Call, t: Tangents) -> Value:
    """D² = n·(n − 1)·xⁿ⁻²·t²."""
    x, n = call.args
    if n in (0, 1):
        return None
    rest = 1 if n == 2 else b.call(aten.pow.Tensor_Scalar, x, n - 2)
    found = times(b, times(b, t[0], t[0]), rest, n * (n - 1))
    return zero_where_still(b, t[0], found) if 0 < n < 2 else found


def _pow_diagonal(b: Builder, call: Call, λ: Value) -> Squares:
    x, n = call.args
    if n < 2:  # 0·∞ where nothing moves
        return NotImplemented
    rest = 1 if n == 2 else b.call(aten.pow.Tensor_Scalar, x, n - 2)
    return times(b, λ, rest, n * (n - 1)), itemgetter(0)


def _powers(x: Tensor) -> Tensor:
    return x**3 + x**4 + (x * x + 0.5) ** 1.5


closed_form(
    _pow,
    _pow_second,
    {aten.pow.Tensor_Scalar: _powers},
    where=lambda call: not isinstance(call.args[1], complex),
    diagonal=_pow_diagonal,
)
