"""Factors of matrices, in operators that PyTorch differentiates right in every order."""

import torch
from torch import Tensor

from alpha_func.calls import Function

aten = torch.ops.aten


def cholesky(x: Tensor, upper: bool = False) -> Tensor:
    """By ``cholesky_ex``, which PyTorch can differentiate forward."""
    return torch.linalg.cholesky(x, upper=upper)


def cholesky_inverse(x: Tensor, upper: bool = False) -> Tensor:
    """The solution of L·Lᴴ·y = 1, whose derivatives PyTorch has right."""
    return torch.cholesky_solve(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), x, upper)


def _reflectors(a: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """V and T of H₁·…·H_k = 1 − V·T·Vᴴ, Hᵢ = 1 − τᵢ·vᵢ·vᵢᴴ (Schreiber & Van Loan, 1989): T⁻¹ = τ⁻¹ + striu(VᴴV)."""
    count = tau.shape[-1]
    one = torch.eye(a.shape[-2], count, dtype=a.dtype, device=a.device)
    v = a[..., :count].tril(-1) + one
    left = one[:count] + tau[..., None] * (v.mH @ v).triu(1)
    return v, torch.linalg.solve_triangular(left, tau.diag_embed(), upper=True, unitriangular=True)


def householder_product(a: Tensor, tau: Tensor) -> Tensor:
    """The first columns of H₁·…·H_k. PyTorch has no derivative of its jvp."""
    v, t = _reflectors(a, tau)
    return torch.eye(*a.shape[-2:], dtype=a.dtype, device=a.device) - v @ (t @ v[..., : a.shape[-1], :].mH)


def ormqr(a: Tensor, tau: Tensor, other: Tensor, left: bool = True, transpose: bool = False) -> Tensor:
    """Q·other, or other·Q; of Q = H₁·…·H_k or its Qᴴ."""
    v, t = _reflectors(a, tau)
    t = t.mH if transpose else t
    return other - (v @ (t @ (v.mH @ other)) if left else ((other @ v) @ t) @ v.mH)


BY_OPERATOR: dict[object, Function] = {
    aten.cholesky.default: cholesky,
    aten.cholesky_inverse.default: cholesky_inverse,
    aten.linalg_householder_product.default: householder_product,
    aten.ormqr.default: ormqr,
}
