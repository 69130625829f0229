"""Bilinear operators and quotients: D(x·y) = t_x·y + x·t_y, D²(x·y) = 2·t_x·t_y."""

from operator import getitem, itemgetter

import torch
from torch.nn import functional as F

from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.builder.values import Value
from alpha_func.capture.derivatives.derivative import first
from alpha_func.capture.derivatives.registrars import bilinear, closed_form
from alpha_func.capture.derivatives.rule import Call, Squares, Tangents, of_positions

aten = torch.ops.aten


def _square(b: Builder, call: Call, λ: Value) -> Squares:
    """f = x·x: f″ = 2."""
    x, y = call.args
    return (times(b, λ, 2), itemgetter(0)) if x is y else NotImplemented


bilinear({aten.mul.Tensor: lambda x, y: x * y}, diagonal=_square)
bilinear(
    {
        aten.mm.default: lambda x: x.reshape(-1, 1) @ x.cos().reshape(1, -1),
        aten.bmm.default: lambda x: torch.bmm(x.reshape(1, -1, 1), x.cos().reshape(1, 1, -1)),
        aten.mv.default: lambda x: torch.mv(x.reshape(1, -1), x.cos().reshape(-1)),
        aten.dot.default: lambda x: torch.dot(x.reshape(-1), x.cos().reshape(-1)),
    }
)


def _addmm(b: Builder, call: Call, t: Tangents) -> Value:
    """D(c + x·y) = t_c + t_x·y + x·t_y."""
    _, x, y = call.args
    total = None if t[2] is None else b.call(aten.mm.default, x, t[2])
    if t[0] is not None:
        total = t[0] if total is None else b.call(aten.addmm.default, t[0], x, t[2])
    return plus(b, total, None if t[1] is None else b.call(aten.mm.default, t[1], y))


def _addmm_second(b: Builder, call: Call, t: Tangents) -> Value:
    """D²(c + x·y) = 2·t_x·t_y."""
    return None if t[1] is None or t[2] is None else times(b, b.call(aten.mm.default, t[1], t[2]), 2)


closed_form(
    _addmm,
    _addmm_second,
    {aten.addmm.default: lambda x: F.linear(x.reshape(1, -1), x.reshape(1, -1).cos(), x.reshape(-1)[:1])},
    where=of_positions,
    bilinear=(1, 2),
)


def _convolution(b: Builder, call: Call, t: Tangents) -> Value:
    """D(x ∗ w + c) = t_x ∗ w + x ∗ t_w + t_c."""
    x, w, _, *how = call.args
    conv = aten.convolution.default
    along_x = None if t[0] is None else b.call(conv, t[0], w, t[2] if t[1] is None else None, *how)
    along_w = None if t[1] is None else b.call(conv, x, t[1], t[2], *how)
    if along_x is None and along_w is None:
        return NotImplemented
    return plus(b, along_x, along_w)


def _convolution_second(b: Builder, call: Call, t: Tangents) -> Value:
    """D²(x ∗ w + c) = 2·t_x ∗ t_w."""
    if t[0] is None or t[1] is None:
        return None
    return times(b, b.call(aten.convolution.default, t[0], t[1], None, *call.args[3:]), 2)


closed_form(
    _convolution,
    _convolution_second,
    {aten.convolution.default: lambda x: F.conv1d(x.reshape(1, 1, -1), x.cos().reshape(-1)[:1].reshape(1, 1, 1))},
    bilinear=(0, 1),
)


def _convolution_backward(b: Builder, call: Call, t: Tangents) -> Value:
    """D(λ ∗ w, λ ∗ x, Σλ) = (t_λ ∗ w + λ ∗ t_w, t_λ ∗ x + λ ∗ t_x, Σt_λ)."""
    (g, x, w, *how, (of_x, of_w, _)), (along_g, along_x, along_w, *_) = call.args, t
    parts = [
        _parts(b, along_g, x, w, *how, call.args[-1]),
        _parts(b, g, along_x, w, *how, [False, of_w, False]),
        _parts(b, g, x, along_w, *how, [of_x, False, False]),
    ]
    return [plus(b, *of_one) for of_one in zip(*parts, strict=True)]


def _convolution_backward_second(b: Builder, call: Call, t: Tangents) -> Value:
    """D²(λ ∗ w, λ ∗ x, Σλ) = 2·(t_λ ∗ t_w, t_λ ∗ t_x, 0)."""
    (_, x, w, *how, (of_x, of_w, _)), (along_g, along_x, along_w, *_) = call.args, t
    parts = [
        _parts(b, along_g, along_x, w, *how, [False, of_w, False]),
        _parts(b, along_g, x, along_w, *how, [of_x, False, False]),
    ]
    return [times(b, plus(b, *of_one), 2) for of_one in zip(*parts, strict=True)]


def _parts(b: Builder, g: Value, x: Value, w: Value, *how: Value) -> list[Value]:
    """The pullback of a convolution to x, w and bias, as far as its mask asks for them; zero where an operand is."""
    mask = how[-1]
    if not any(mask) or any(operand is None for operand in (g, x, w)):
        return [None, None, None]
    found = b.call(aten.convolution_backward.default, g, x, w, *how)
    return [b.call(getitem, found, i) if wanted else None for i, wanted in enumerate(mask)]


def _its_backward(x: Value) -> Value:
    image, kernel, how = x.reshape(1, 1, -1), x.cos().reshape(-1)[:1].reshape(1, 1, 1), [[1], [0], [1], False, [0], 1]
    return aten.convolution_backward.default(image.sin(), image, kernel, None, *how, [True, True, False])[1]


closed_form(_convolution_backward, _convolution_backward_second, {aten.convolution_backward.default: _its_backward})


def _div(b: Builder, call: Call, t: Tangents) -> Value:
    """q = x/y: q₁ = (t_x − q·t_y)/y."""
    _, y = call.args
    top = plus(b, t[0], times(b, call.value, t[1], -1) if len(t) > 1 else None)
    return b.call(aten.div.Tensor, top, y)


def _div_second(b: Builder, call: Call, t: Tangents) -> Value:
    """q = x/y: D²q[t, t] = −2·q₁·t_y/y."""
    if t[1] is None:
        return None
    top = times(b, first(b, call, t), t[1], -2)
    return b.call(aten.div.Tensor, top, call.args[1])


closed_form(_div, _div_second, {aten.div.Tensor: lambda x, y: x / (y * y + 1)})


def _hypot(b: Builder, call: Call, t: Tangents) -> Value:
    """h = √(x² + y²): h₁ = (x·t_x + y·t_y)/h, and 0 at the origin, as PyTorch's gradient; its forward mode is nan."""
    return plus(b, *(times(b, _by_length(b, x, call.value), tx) for x, tx in zip(call.args, t, strict=True)))


def _hypot_second(b: Builder, call: Call, t: Tangents) -> Value:
    """D²h[t, t] = (x·t_y − y·t_x)²/h³, and 0 at the origin."""
    u, v = (_by_length(b, x, call.value) for x in call.args)
    turned = plus(b, times(b, u, t[1]), times(b, v, t[0], -1))
    return _by_length(b, times(b, turned, turned), call.value)


def _by_length(b: Builder, x: Value, h: Value) -> Value:
    """x/h, and 0 where h is."""
    found = b.call(aten.div.Tensor, x, h)
    return b.call(aten.where.self, b.call(aten.eq.Scalar, h, 0), filled_like(b, found, 0, ()), found)


closed_form(_hypot, _hypot_second, {aten.hypot.default: lambda x, y: torch.hypot(x, y)})
