"""Determinants and solutions: PyTorch's jvp of the jvp holds constant what they share, and is wrong."""

from collections.abc import Callable

import torch
from torch import Tensor

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.derivatives.registrars import in_torch
from alpha_func.capture.derivatives.rule import Tangents

aten = torch.ops.aten
Map = Callable[[Tensor], Tensor]


def _matrix(x: Tensor) -> Tensor:
    return torch.outer(x.reshape(-1), x.reshape(-1).cos()) + torch.arange(1, x.numel() + 1, dtype=x.dtype).diag()


def _solved(operator: Operator, args: Args, kwargs: Kwargs, t: Tangents) -> tuple[Tensor, Map, Map]:
    """The first derivative of x = A⁻¹B (or BA⁻¹), and two functions of what has the shape of B: t_A·(·) and A⁻¹(·)."""
    a, right = args[:2]
    left = kwargs.get("left", True) if len(args) < 3 else args[2]
    vectors = right.ndim == 1 or right.shape == a.shape[:-1]

    def inverse_times(x: Tensor) -> Tensor:
        return operator(a, x, *args[2:], **kwargs)[0]

    def bent(x: Tensor) -> Tensor:
        if t[0] is None:
            return torch.zeros_like(x)
        if vectors:
            return (t[0] @ x[..., None])[..., 0]
        return t[0] @ x if left else x @ t[0]

    moved = -bent(inverse_times(right)) if t[0] is not None else torch.zeros_like(right)
    return inverse_times(moved if t[1] is None else moved + t[1]), bent, inverse_times


def _solve(operator: Operator, args: Args, kwargs: Kwargs, t: Tangents) -> Value:
    """x = A⁻¹B: x₁ = A⁻¹(t_B − t_A·x)."""
    return [_solved(operator, args, kwargs, t)[0], None, None, None]


def _solve_second(operator: Operator, args: Args, kwargs: Kwargs, t: Tangents) -> Value:
    """D²x[t, t] = −2·A⁻¹·t_A·x₁."""
    first, bent, inverse_times = _solved(operator, args, kwargs, t)
    return [None if t[0] is None else inverse_times(-2 * bent(first)), None, None, None]


in_torch(
    _solve,
    _solve_second,
    {aten._linalg_solve_ex.default: lambda x: torch.linalg.solve(_matrix(x), x.reshape(-1))},
)


def _slogdet(operator: Operator, args: Args, kwargs: Kwargs, t: Tangents) -> Value:
    """σ·e^l = det A, m = tr A⁻¹t: l₁ = Re m and σ₁ = i·Im m·σ, zero for real numbers."""
    trace = _turned(args[0], t[0]).diagonal(dim1=-2, dim2=-1).sum(-1)
    return [_phase(operator(*args)[0], 1j * trace.imag) if trace.is_complex() else None, trace.real, None, None]


def _slogdet_second(operator: Operator, args: Args, kwargs: Kwargs, t: Tangents) -> Value:
    """m₁ = −tr (A⁻¹t)²: D²l[t, t] = Re m₁ and D²σ[t, t] = (i·Im m₁ − (Im m)²)·σ."""
    turned = _turned(args[0], t[0])
    bend = -(turned * turned.mT).sum((-2, -1))
    if not bend.is_complex():
        return [None, bend, None, None]
    trace = turned.diagonal(dim1=-2, dim2=-1).sum(-1)
    return [_phase(operator(*args)[0], 1j * bend.imag - trace.imag.square()), bend.real, None, None]


def _turned(a: Tensor, t: Tensor) -> Tensor:
    return aten._linalg_solve_ex.default(a, t)[0]


def _phase(sign: Tensor, factor: Tensor) -> Tensor:
    return factor * sign


in_torch(_slogdet, _slogdet_second, {aten._linalg_slogdet.default: lambda x: torch.linalg.slogdet(_matrix(x))[1]})


def _in_singular_basis(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """det(U·Vᴴ), s and Uᴴ·t·V, of x = U·diag(s)·Vᴴ."""
    left, s, right = torch.linalg.svd(x)
    return torch.linalg.det(left @ right), s, left.mH @ t @ right.mH


def _det(operator: Operator, args: Args, kwargs: Kwargs, t: Tangents) -> Value:
    """d = det x, u = t in the singular basis of x: D d[t] = det(U·Vᴴ)·Σ_i u_ii·Π_{k ≠ i} s_k.

    Nothing is divided by, so x may be singular; PyTorch's divides, and its jvp of the jvp holds the factors constant.
    """
    sign, s, u = _in_singular_basis(args[0], t[0])
    others = torch.where(torch.eye(s.shape[-1], dtype=torch.bool, device=s.device), 1, s[..., None, :]).prod(-1)
    return [sign * (u.diagonal(dim1=-2, dim2=-1) * others).sum(-1), None, None]


def _det_second(operator: Operator, args: Args, kwargs: Kwargs, t: Tangents) -> Value:
    """D²d[t, t] = det(U·Vᴴ)·Σ_ij (u_ii·u_jj − u_ij·u_ji)·Π_{k ≠ i, j} s_k."""
    sign, s, u = _in_singular_basis(args[0], t[0])
    own = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    others = torch.where(own[:, None] | own[None], 1, s[..., None, None, :]).prod(-1)
    diagonal = u.diagonal(dim1=-2, dim2=-1)
    minors = diagonal[..., :, None] * diagonal[..., None, :] - u * u.mT
    return [sign * (minors * others).sum((-2, -1)), None, None]


in_torch(_det, _det_second, {aten._linalg_det.default: lambda x: torch.linalg.det(_matrix(x))})
