"""Softmax and moments: what a row of numbers is reduced to."""

import math
from operator import getitem

import torch

from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.builder.operands import places
from alpha_func.capture.builder.values import Value
from alpha_func.capture.derivatives.derivative import pullback
from alpha_func.capture.derivatives.registrars import closed_form
from alpha_func.capture.derivatives.rule import Call, Squares, Tangents, of_reals

aten = torch.ops.aten


def _softmax(b: Builder, call: Call, t: Tangents) -> Value:
    """y = softmax(x): y₁ = y·u, with u = t − Σ y·t."""
    return times(b, call.value, _centred(b, call.value, t[0], call.args[1]))


def _softmax_second(b: Builder, call: Call, t: Tangents) -> Value:
    """y = softmax(x): D²y[t, t] = y·(u² − Σ y·u²)."""
    u = _centred(b, call.value, t[0], call.args[1])
    dtype = call.value.meta["val"].dtype
    return b.call(aten._softmax_backward_data.default, times(b, u, u), call.value, call.args[1], dtype)


def _softmax_diagonal(b: Builder, call: Call, λ: Value) -> Squares:
    """⟨λ, D²y[s, t]⟩ = Σ p·u(s)·u(t), with p = y·(λ − Σ λ·y) the pullback of λ."""
    y, dim = call.value, call.args[1]
    (p, *_) = pullback(b, call, (True, *(False for _ in call.args[1:])), λ)
    return p, lambda t: _centred(b, y, t[0], dim)


def _centred(b: Builder, p: Value, t: Value, dim: int) -> Value:
    """u = t − Σ p·t, the tangent less its mean under the probabilities p."""
    mean = b.call(aten.sum.dim_IntList, times(b, p, t), [dim], True)
    return plus(b, t, times(b, mean, -1))


closed_form(
    _softmax,
    _softmax_second,
    {
        aten._softmax.default: lambda x: x.softmax(-1),
        aten._safe_softmax.default: lambda x: aten._safe_softmax(x, -1),
    },
    diagonal=_softmax_diagonal,
)


def _log_softmax(b: Builder, call: Call, t: Tangents) -> Value:
    """y = log softmax(x): y₁ = u."""
    return _centred(b, b.call(aten.exp.default, call.value), t[0], call.args[1])


def _log_softmax_second(b: Builder, call: Call, t: Tangents) -> Value:
    """y = log softmax(x), p = eʸ: D²y[t, t] = −Σ p·u², the same for the whole row."""
    p = b.call(aten.exp.default, call.value)
    u = _centred(b, p, t[0], call.args[1])
    spread = b.call(aten.sum.dim_IntList, times(b, times(b, p, u), u), [call.args[1]], True)
    return times(b, spread, -1)


def _log_softmax_diagonal(b: Builder, call: Call, λ: Value) -> Squares:
    """⟨λ, D²y[s, t]⟩ = −Σ p·(Σ λ)·u(s)·u(t)."""
    p, dim = b.call(aten.exp.default, call.value), call.args[1]
    total = b.call(aten.sum.dim_IntList, λ, [dim], True)
    return times(b, p, times(b, total, -1)), lambda t: _centred(b, p, t[0], dim)


closed_form(
    _log_softmax,
    _log_softmax_second,
    {aten._log_softmax.default: lambda x: x.log_softmax(0)},
    diagonal=_log_softmax_diagonal,
)


def _variance(b: Builder, x: Value, t: Value, how: tuple[object, float, bool]) -> tuple[Value, Value]:
    """D var(x)[t] = 2·mean((x − mean x)·t) and D mean(x)[t] = mean(t), the mean over n − correction entries."""
    dims, correction, keepdim = how
    shape = x.meta["val"].shape
    dims = places(dims, len(shape))
    count = math.prod(shape[dim] for dim in dims)
    centred = plus(b, x, times(b, b.call(aten.mean.dim, x, dims, True), -1))
    moment = b.call(aten.sum.dim_IntList, times(b, centred, t), dims, keepdim)
    return times(b, moment, 2 / (count - correction)), b.call(aten.mean.dim, t, dims, keepdim)


def _how(call: Call) -> tuple[object, float, bool]:
    correction = call.kwargs.get("correction")
    dims = call.args[1] if len(call.args) > 1 else None
    return dims, 1 if correction is None else correction, call.kwargs.get("keepdim", False)


def _var(b: Builder, call: Call, t: Tangents) -> Value:
    return _variance(b, call.args[0], t[0], _how(call))[0]


def _var_second(b: Builder, call: Call, t: Tangents) -> Value:
    """The variance is a quadratic form: D² var(x)[t, t] = 2·var(t)."""
    return times(b, b.call(call.target, t[0], *call.args[1:], **call.kwargs), 2)


def _var_mean(b: Builder, call: Call, t: Tangents) -> Value:
    return list(_variance(b, call.args[0], t[0], _how(call)))


def _var_mean_second(b: Builder, call: Call, t: Tangents) -> Value:
    both = b.call(call.target, t[0], *call.args[1:], **call.kwargs)
    return [times(b, b.call(getitem, both, 0), 2), None]


closed_form(_var, _var_second, {aten.var.correction: lambda x: x.var(-1, correction=0)}, where=of_reals)
closed_form(
    _var_mean,
    _var_mean_second,
    {aten.var_mean.correction: lambda x: torch.stack(torch.var_mean(x.flatten(), 0, correction=0))},
    where=of_reals,
)
