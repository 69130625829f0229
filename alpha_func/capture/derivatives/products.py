"""Bilinear operators, quotients and determinants: D(x·y) = t_x·y + x·t_y, D²(x·y) = 2·t_x·t_y."""

from operator import getitem
from typing import Any

import torch

from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.derivatives.derivative import Call, first, formulas, rules

aten = torch.ops.aten


# The two operands in which an operator is bilinear, the others being constant or added.
BILINEAR: dict[Any, tuple[int, int]] = {aten.addmm.default: (1, 2), aten.convolution.default: (0, 1)}


def _bilinear(target: Any) -> None:
    def product(b: Builder, x: Any, y: Any) -> Any:
        return None if x is None or y is None else b.call(target, x, y)

    def d(b: Builder, call: Call, t: Any) -> Any:
        x, y = call.args
        return plus(b, product(b, t[0], y), product(b, x, t[1]))

    def d2(b: Builder, call: Call, t: Any) -> Any:
        return times(b, product(b, t[0], t[1]), 2)

    rules(d, d2, target)
    BILINEAR[target] = (0, 1)


for _target in (aten.mul.Tensor, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default):
    _bilinear(_target)


def _addmm(b: Builder, call: Call, t: Any) -> Any:
    """D(c + x·y) = t_c + t_x·y + x·t_y."""
    if call.kwargs:
        return NotImplemented
    _, x, y = call.args
    total = None if t[2] is None else b.call(aten.mm.default, x, t[2])
    if t[0] is not None:
        total = t[0] if total is None else b.call(aten.addmm.default, t[0], x, t[2])
    return plus(b, total, None if t[1] is None else b.call(aten.mm.default, t[1], y))


def _addmm_second(b: Builder, call: Call, t: Any) -> Any:
    """D²(c + x·y) = 2·t_x·t_y."""
    if call.kwargs:
        return NotImplemented
    return None if t[1] is None or t[2] is None else times(b, b.call(aten.mm.default, t[1], t[2]), 2)


rules(_addmm, _addmm_second, aten.addmm.default)


def _convolution(b: Builder, call: Call, t: Any) -> Any:
    """D(x ∗ w + c) = t_x ∗ w + x ∗ t_w + t_c."""
    x, w, _, *how = call.args
    conv = aten.convolution.default
    along_x = None if t[0] is None else b.call(conv, t[0], w, t[2] if t[1] is None else None, *how)
    along_w = None if t[1] is None else b.call(conv, x, t[1], t[2], *how)
    if along_x is None and along_w is None:
        return NotImplemented
    return plus(b, along_x, along_w)


def _convolution_second(b: Builder, call: Call, t: Any) -> Any:
    """D²(x ∗ w + c) = 2·t_x ∗ t_w."""
    if t[0] is None or t[1] is None:
        return None
    return times(b, b.call(aten.convolution.default, t[0], t[1], None, *call.args[3:]), 2)


rules(_convolution, _convolution_second, aten.convolution.default)


def _convolution_backward(b: Builder, call: Call, t: Any) -> Any:
    """D(λ ∗ w, λ ∗ x, Σλ) = (t_λ ∗ w + λ ∗ t_w, t_λ ∗ x + λ ∗ t_x, Σt_λ)."""
    (g, x, w, *how, (of_x, of_w, _)), (along_g, along_x, along_w, *_) = call.args, t
    parts = [
        _parts(b, along_g, x, w, *how, call.args[-1]),
        _parts(b, g, along_x, w, *how, [False, of_w, False]),
        _parts(b, g, x, along_w, *how, [of_x, False, False]),
    ]
    return [plus(b, *of_one) for of_one in zip(*parts, strict=True)]


def _convolution_backward_second(b: Builder, call: Call, t: Any) -> Any:
    """D²(λ ∗ w, λ ∗ x, Σλ) = 2·(t_λ ∗ t_w, t_λ ∗ t_x, 0)."""
    (_, x, w, *how, (of_x, of_w, _)), (along_g, along_x, along_w, *_) = call.args, t
    parts = [
        _parts(b, along_g, along_x, w, *how, [False, of_w, False]),
        _parts(b, along_g, x, along_w, *how, [of_x, False, False]),
    ]
    return [times(b, plus(b, *of_one), 2) for of_one in zip(*parts, strict=True)]


def _parts(b: Builder, g: Any, x: Any, w: Any, *how: Any) -> list[Any]:
    """The pullback of a convolution to x, w and bias, as far as its mask asks for them; zero where an operand is."""
    mask = how[-1]
    if not any(mask) or any(operand is None for operand in (g, x, w)):
        return [None, None, None]
    found = b.call(aten.convolution_backward.default, g, x, w, *how)
    return [b.call(getitem, found, i) if wanted else None for i, wanted in enumerate(mask)]


rules(_convolution_backward, _convolution_backward_second, aten.convolution_backward.default)


def _div(b: Builder, call: Call, t: Any) -> Any:
    """q = x/y: q₁ = (t_x − q·t_y)/y."""
    _, y = call.args
    top = plus(b, t[0], times(b, call.value, t[1], -1) if len(t) > 1 else None)
    return b.call(aten.div.Tensor, top, y)


def _div_second(b: Builder, call: Call, t: Any) -> Any:
    """q = x/y: D²q[t, t] = −2·q₁·t_y/y."""
    if t[1] is None:
        return None
    top = times(b, first(b, call, t), t[1], -2)
    return b.call(aten.div.Tensor, top, call.args[1])


rules(_div, _div_second, aten.div.Tensor)


def _in_singular_basis(x: Any, t: Any) -> tuple[Any, Any, Any]:
    """det(U·Vᴴ), s and Uᴴ·t·V, of x = U·diag(s)·Vᴴ."""
    left, s, right = torch.linalg.svd(x)
    return torch.linalg.det(left @ right), s, left.mH @ t @ right.mH


def _det(target: Any, args: Any, kwargs: Any, t: Any) -> Any:
    """d = det x, u = t in the singular basis of x: D d[t] = det(U·Vᴴ)·Σ_i u_ii·Π_{k ≠ i} s_k.

    Nothing is divided by, so x may be singular; PyTorch's divides, and its jvp of the jvp holds the factors constant.
    """
    sign, s, u = _in_singular_basis(args[0], t[0])
    others = torch.where(torch.eye(s.shape[-1], dtype=torch.bool, device=s.device), 1, s[..., None, :]).prod(-1)
    return [sign * (u.diagonal(dim1=-2, dim2=-1) * others).sum(-1), None, None]


def _det_second(target: Any, args: Any, kwargs: Any, t: Any) -> Any:
    """D²d[t, t] = det(U·Vᴴ)·Σ_ij (u_ii·u_jj − u_ij·u_ji)·Π_{k ≠ i, j} s_k."""
    sign, s, u = _in_singular_basis(args[0], t[0])
    own = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    others = torch.where(own[:, None] | own[None], 1, s[..., None, None, :]).prod(-1)
    diagonal = u.diagonal(dim1=-2, dim2=-1)
    minors = diagonal[..., :, None] * diagonal[..., None, :] - u * u.mT
    return [sign * (minors * others).sum((-2, -1)), None, None]


formulas(_det, _det_second, aten._linalg_det.default)
