"""Derivatives of matrix functions: PyTorch's jvp of the jvp holds constant what they share, and is wrong."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alpha_func.capture.derivatives.derivative import formulas

aten = torch.ops.aten
Map = Callable[[Tensor], Tensor]


def _solved(target: Any, args: Any, kwargs: Any, t: Any) -> tuple[Tensor, Map, Map]:
    """The first derivative of x = A⁻¹B (or BA⁻¹), and two functions of what has the shape of B: t_A·(·) and A⁻¹(·)."""
    a, right = args[:2]
    left = kwargs.get("left", True) if len(args) < 3 else args[2]
    vectors = right.ndim == 1 or right.shape == a.shape[:-1]

    def inverse_times(x: Tensor) -> Tensor:
        return target(a, x, *args[2:], **kwargs)[0]

    def bent(x: Tensor) -> Tensor:
        if t[0] is None:
            return torch.zeros_like(x)
        if vectors:
            return (t[0] @ x[..., None])[..., 0]
        return t[0] @ x if left else x @ t[0]

    moved = -bent(inverse_times(right)) if t[0] is not None else torch.zeros_like(right)
    return inverse_times(moved if t[1] is None else moved + t[1]), bent, inverse_times


def _solve(target: Any, args: Any, kwargs: Any, t: Any) -> Any:
    """x = A⁻¹B: x₁ = A⁻¹(t_B − t_A·x)."""
    return [_solved(target, args, kwargs, t)[0], None, None, None]


def _solve_second(target: Any, args: Any, kwargs: Any, t: Any) -> Any:
    """D²x[t, t] = −2·A⁻¹·t_A·x₁."""
    first, bent, inverse_times = _solved(target, args, kwargs, t)
    return [None if t[0] is None else inverse_times(-2 * bent(first)), None, None, None]


formulas(_solve, _solve_second, aten._linalg_solve_ex.default)


def _slogdet(target: Any, args: Any, kwargs: Any, t: Any) -> Any:
    """σ·e^l = det A, m = tr A⁻¹t: l₁ = Re m and σ₁ = i·Im m·σ, zero for real numbers."""
    trace = _turned(args[0], t[0]).diagonal(dim1=-2, dim2=-1).sum(-1)
    return [_phase(target(*args)[0], 1j * trace.imag) if trace.is_complex() else None, trace.real, None, None]


def _slogdet_second(target: Any, args: Any, kwargs: Any, t: Any) -> Any:
    """m₁ = −tr (A⁻¹t)²: D²l[t, t] = Re m₁ and D²σ[t, t] = (i·Im m₁ − (Im m)²)·σ."""
    turned = _turned(args[0], t[0])
    bend = -(turned * turned.mT).sum((-2, -1))
    if not bend.is_complex():
        return [None, bend, None, None]
    trace = turned.diagonal(dim1=-2, dim2=-1).sum(-1)
    return [_phase(target(*args)[0], 1j * bend.imag - trace.imag.square()), bend.real, None, None]


def _turned(a: Tensor, t: Tensor) -> Tensor:
    return aten._linalg_solve_ex.default(a, t)[0]


def _phase(sign: Tensor, factor: Tensor) -> Tensor:
    return factor * sign


formulas(_slogdet, _slogdet_second, aten._linalg_slogdet.default)
