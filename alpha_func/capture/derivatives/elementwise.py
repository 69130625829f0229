"""Functions of one number: v₁ = f′·t, D² = f″·t². Many have f″ = f′·r, and then D² = v₁·t·r."""

import math
from collections.abc import Callable
from typing import Any

import torch

from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.derivatives.derivative import SLOPE, Call, rules

aten = torch.ops.aten
Unary = Callable[[Builder, Any, Any], Any]


def _unary(
    target: Any, slope: Unary, *, ratio: Unary | None = None, bend: Unary | None = None, singular: bool = False
) -> None:
    """Enter f by f′ and either r or f″; ``singular``: f′ is infinite at a number where f is not."""

    def d(b: Builder, call: Call, t: Any) -> Any:
        found = times(b, t[0], slope(b, call.args[0], call.value))
        return _none_without_tangent(b, t[0], found) if singular else found

    def d2(b: Builder, call: Call, t: Any) -> Any:
        if bend is not None:
            return times(b, times(b, t[0], t[0]), bend(b, call.args[0], call.value))
        assert ratio is not None
        found = times(b, times(b, d(b, call, t), t[0]), ratio(b, call.args[0], call.value))
        return _none_without_tangent(b, t[0], found) if singular else found

    rules(d, d2, target)
    SLOPE[target] = lambda b, call: slope(b, call.args[0], call.value)


def _none_without_tangent(b: Builder, t: Any, found: Any) -> Any:
    """A number that does not move leaves f where it is: 0, where 0·∞ would be nan (√ of what a clamp holds at 0)."""
    still = b.call(aten.eq.Scalar, t, 0)
    return b.call(aten.where.self, still, filled_like(b, found, 0, ()), found)


def _affine(b: Builder, x: Any, scale: float, shift: float) -> Any:
    return plus(b, times(b, x, scale), shift)


_unary(
    aten.tanh.default,
    lambda b, x, y: _affine(b, times(b, y, y), -1, 1),
    ratio=lambda b, x, y: times(b, y, -2),
)
_unary(
    aten.sigmoid.default,
    lambda b, x, y: times(b, y, _affine(b, y, -1, 1)),
    ratio=lambda b, x, y: _affine(b, y, -2, 1),
)
_unary(aten.exp.default, lambda b, x, y: y, ratio=lambda b, x, y: 1)
_unary(aten.sin.default, lambda b, x, y: b.call(aten.cos.default, x), bend=lambda b, x, y: times(b, y, -1))
_unary(
    aten.cos.default,
    lambda b, x, y: times(b, b.call(aten.sin.default, x), -1),
    bend=lambda b, x, y: times(b, y, -1),
)
_unary(
    aten.log.default,
    lambda b, x, y: b.call(aten.reciprocal.default, x),
    ratio=lambda b, x, y: times(b, b.call(aten.reciprocal.default, x), -1),
)
_unary(
    aten.reciprocal.default,
    lambda b, x, y: times(b, y, y, -1),
    ratio=lambda b, x, y: times(b, y, -2),
)
_unary(
    aten.rsqrt.default,
    lambda b, x, y: times(b, times(b, y, y), y, -0.5),
    ratio=lambda b, x, y: times(b, y, y, -1.5),
)
_unary(
    aten.sqrt.default,
    lambda b, x, y: times(b, b.call(aten.reciprocal.default, y), 0.5),
    ratio=lambda b, x, y: times(b, b.call(aten.reciprocal.default, x), -0.5),
    singular=True,
)
_unary(
    aten.erf.default,
    lambda b, x, y: times(b, b.call(aten.exp.default, times(b, x, x, -1)), 2 / math.sqrt(math.pi)),
    ratio=lambda b, x, y: times(b, x, -2),
)


def _silu_parts(b: Builder, x: Any) -> tuple[Any, Any, Any]:
    """σ(x), 1 − σ(x), x·(1 − σ(x))."""
    sigma = b.call(aten.sigmoid.default, x)
    rest = _affine(b, sigma, -1, 1)
    return sigma, rest, times(b, x, rest)


def _silu_slope(b: Builder, x: Any, y: Any) -> Any:
    """f = x·σ: f′ = σ·(1 + x·(1 − σ))."""
    sigma, _, linear = _silu_parts(b, x)
    return times(b, sigma, plus(b, linear, 1))


def _silu_bend(b: Builder, x: Any, y: Any) -> Any:
    """f = x·σ: f″ = σ·(1 − σ)·(2 + x·(1 − 2σ)) = σ·(1 − σ)·(2 + x·(1 − σ) − f)."""
    sigma, rest, linear = _silu_parts(b, x)
    return times(b, times(b, sigma, rest), plus(b, plus(b, linear, times(b, y, -1)), 2))


_unary(aten.silu.default, _silu_slope, bend=_silu_bend)


def _gelu(b: Builder, call: Call, t: Any) -> Any:
    """f = x·Φ(x): v₁ = gelu_backward(t, x), a kernel."""
    return b.call(aten.gelu_backward.default, t[0], call.args[0], **call.kwargs)


def _gelu_second(b: Builder, call: Call, t: Any) -> Any:
    """f = x·Φ(x): f″ = φ(x)·(2 − x²)."""
    if call.kwargs.get("approximate", "none") != "none":
        return NotImplemented
    x = call.args[0]
    square = times(b, x, x)
    density = times(b, b.call(aten.exp.default, times(b, square, -0.5)), 1 / math.sqrt(2 * math.pi))
    return times(b, times(b, t[0], t[0]), times(b, density, _affine(b, square, -1, 2)))


rules(_gelu, _gelu_second, aten.gelu.default)


def _pow(b: Builder, call: Call, t: Any) -> Any:
    """v₁ = n·xⁿ⁻¹·t."""
    x, n = call.args
    if isinstance(n, complex):
        return NotImplemented
    if n == 0:
        return None
    found = times(b, t[0], b.call(aten.pow.Tensor_Scalar, x, n - 1), n)
    return _none_without_tangent(b, t[0], found) if 0 < n < 1 else found


def _pow_second(b: Builder, call: Call, t: Any) -> Any:
    """D² = n·(n − 1)·xⁿ⁻²·t²."""
    x, n = call.args
    if isinstance(n, complex):
        return NotImplemented
    if n in (0, 1):
        return None
    rest = 1 if n == 2 else b.call(aten.pow.Tensor_Scalar, x, n - 2)
    found = times(b, times(b, t[0], t[0]), rest, n * (n - 1))
    return _none_without_tangent(b, t[0], found) if 0 < n < 2 else found


rules(_pow, _pow_second, aten.pow.Tensor_Scalar)
