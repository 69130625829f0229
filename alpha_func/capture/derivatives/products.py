"""Bilinear operators and quotients: D(x·y) = t_x·y + x·t_y, D²(x·y) = 2·t_x·t_y."""

import torch
from torch.nn import functional as F

from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.derivatives.derivative import first
from alpha_func.capture.derivatives.registrars import bilinear, closed_form
from alpha_func.capture.derivatives.rule import Call, Tangents, Value, of_positions

aten = torch.ops.aten


bilinear(
    {
        aten.mul.Tensor: lambda x, y: x * y,
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
