"""Layer and batch normalisation, without their weight and bias, whole: their derivatives are kernels of PyTorch's.

y = r·(x − m)     m the mean of x over a group of n entries, r = 1/√(var + ε)
J t = r·(t − mean(t) − y·mean(y·t))     y₁, and as J is symmetric the pullback too: one kernel
a = mean(y·t), a₁ = mean(y₁·t):     m₁ = mean(t), r₁ = −r²·a
y₂ = −r·(2·a·y₁ + a₁·y)             m₂ = 0,       r₂ = 2·r³·a² − r²·a₁      along a line x + αt
"""

from operator import getitem
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.builder.operands import shape_of
from alpha_func.capture.builder.values import Value
from alpha_func.capture.derivatives.registrars import closed_form
from alpha_func.capture.derivatives.rule import Call, Tangents
from alpha_func.capture.rewrites.normalisation import BATCH, LAYER, Groups, groups_of

aten = torch.ops.aten


class _Normalised(NamedTuple):
    """A call, with what its derivatives are made of."""

    call: Call
    groups: Groups
    y: Value
    mean: Value
    rstd: Value

    def along(self, b: Builder, t: Value) -> Value:
        """J t, by the kernel of the backward."""
        x, *rest = self.call.args
        none, mask = (None, None), [True, False, False]
        if self.call.target is LAYER:
            back = b.call(aten.native_layer_norm_backward.default, t, x, rest[0], self.mean, self.rstd, *none, mask)
        else:
            back = b.call(
                aten.native_batch_norm_backward.default, t, x, None, *none, self.mean, self.rstd, True, rest[-1], mask
            )
        return b.call(getitem, back, 0)

    def scale(self, b: Builder) -> Value:
        """r, which broadcasts against y."""
        return b.call(aten.reshape.default, self.rstd, self.groups.kept)

    def statistic(self, b: Builder, value: Value) -> Value:
        """A value per group in the shape of the operator's statistics."""
        return b.call(aten.reshape.default, value, list(shape_of(self.rstd)))


def _normalised(b: Builder, call: Call) -> _Normalised:
    y, mean, rstd = (b.call(getitem, call.value, i) for i in range(3))
    return _Normalised(call, groups_of(call.target, call.args[0], call.args), y, mean, rstd)


def _first(b: Builder, call: Call, t: Tangents) -> Value:
    """y₁, m₁, r₁."""
    n = _normalised(b, call)
    a, r = n.groups.mean(b, times(b, n.y, t[0])), n.scale(b)
    mean = n.groups.mean(b, t[0])
    return [n.along(b, t[0]), n.statistic(b, mean), n.statistic(b, times(b, r, r, a, -1))]


def _second(b: Builder, call: Call, t: Tangents) -> Value:
    """y₂, m₂, r₂."""
    n = _normalised(b, call)
    y1, r = n.along(b, t[0]), n.scale(b)
    a, a1 = (n.groups.mean(b, times(b, y, t[0])) for y in (n.y, y1))
    y2 = plus(b, times(b, y1, times(b, r, a, -2)), times(b, n.y, times(b, r, a1, -1)))
    r2 = plus(b, times(b, r, r, r, a, a, 2), times(b, r, r, a1, -1))
    return [y2, None, n.statistic(b, r2)]


def _pullback(b: Builder, call: Call, active: Tangents, adjoints: Value) -> list[Value]:
    """J λ_y + λ_m/n − λ_r·r²·y/n."""
    n = _normalised(b, call)
    y, mean, rstd = (*adjoints, None, None)[:3]
    total = None if y is None else n.along(b, y)
    if mean is not None:
        total = plus(b, total, times(b, b.call(aten.reshape.default, mean, n.groups.kept), 1 / n.groups.size))
    if rstd is not None:
        factor = times(b, n.scale(b), n.scale(b), b.call(aten.reshape.default, rstd, n.groups.kept), -1 / n.groups.size)
        total = plus(b, total, times(b, n.y, factor))
    if mean is not None and y is None and rstd is None:
        total = b.call(aten.expand.default, total, list(shape_of(call.args[0])))
    return [total]


def _layer_case(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape) + F.layer_norm(x, x.shape[-1:]) if x.ndim else x


def _batch_case(x: Tensor) -> Tensor:
    return F.batch_norm(x.reshape(-1, 1), None, None, training=True) if x.numel() > 1 else x


closed_form(_first, _second, {LAYER: _layer_case, BATCH: _batch_case}, pullback=_pullback)
