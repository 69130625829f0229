"""Solving, inverses and determinants: formulas of the sweeps, where PyTorch's jvp of the jvp is wrong."""

import pytest
import torch

from alpha_func import capture, grad_and_quadratic, quadratic_along, tree
from tests.helpers.reference import assert_close, double_backward, flat

solve, slogdet = torch.linalg.solve, torch.linalg.slogdet
CONSTANT = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
LOSSES = {
    "matrices": lambda p: solve(p["a"], p["b"]).square(),
    "vectors": lambda p: solve(p["a"], p["b"][..., 0]).square(),
    "one vector": lambda p: solve(p["a"][0], p["b"][0, :, 0]).square(),
    "the right side": lambda p: solve(p["a"], p["b"].mT, left=False).square(),
    "a constant": lambda p: solve(p["a"], CONSTANT).sin(),
    "a constant matrix": lambda p: solve(CONSTANT @ CONSTANT.mT + torch.eye(3), p["b"]).square(),
    "inverses": lambda p: torch.linalg.inv(p["a"]).square(),
    "complex numbers": lambda p: solve(complex_of(p), complex_of(p) * 2 + 1).abs().square(),
    "a complex Cholesky factor": lambda p: torch.linalg.cholesky(gram_of(p)).abs().square(),
    "complex eigenvalues": lambda p: torch.linalg.eigvalsh(gram_of(p)).sin(),
    "log-determinants": lambda p: slogdet(p["a"]).logabsdet.square(),
    "complex determinants": lambda p: slogdet(complex_of(p)).logabsdet.square() * slogdet(complex_of(p)).sign.real,
}


def complex_of(p):
    return torch.complex(p["a"][0], p["b"][0] @ p["b"][1].mT)


def gram_of(p):
    return complex_of(p) @ complex_of(p).mH + torch.eye(3)


@pytest.mark.parametrize("name", LOSSES)
def test_sweeps_are_exact_through(name):
    generator = torch.Generator().manual_seed(0)

    def loss(p):
        return LOSSES[name](p).sum()

    params = {"a": torch.zeros(2, 3, 3), "b": torch.zeros(2, 3, 2)}
    params, d = (tree.randn_like(tree.map(torch.Tensor.double, params), generator=generator) for _ in range(2))
    params["a"] += 2 * torch.eye(3)
    truth, bend = double_backward(loss, params, d)
    captured = capture(loss, strict=True)
    for got in (quadratic_along(captured)(params, d), grad_and_quadratic(captured, lambda _: d)(params).quadratic):
        assert_close(got.slope, truth.slope, 1e-12, 1 + abs(truth.slope))
        assert_close(got.curvature, truth.curvature, 1e-12, 1 + flat(d).norm() * bend)
