"""Both sweeps of a captured loss against double backward in a plain loop."""

import pytest
import torch

from alpha_func import capture, grad_and_quadratic, quadratic_along, tree


def inner(x, y):
    """Re Σ x̄·y over the tensors of both."""
    parts = [
        (torch.view_as_real(a), torch.view_as_real(b)) if a.is_complex() else (a, b) for a, b in zip(x, y, strict=True)
    ]
    return sum((a * b).sum(dtype=torch.float64) for a, b in parts)


def double_backward(loss, params, direction, *args):
    """(value, slope, curvature), gradient."""
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in params.items()}
    value = loss(leaves, *args)
    grads = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
    slope = inner(grads, direction.values())
    hd = torch.autograd.grad(slope, list(leaves.values()), materialize_grads=True) if slope.requires_grad else grads
    curvature = inner(hd, direction.values()) if slope.requires_grad else torch.zeros(())
    return [float(number.detach()) for number in (value, slope, curvature)], grads


def assert_exact(loss, params, *args, tolerance=1e-10):
    """Value, slope, curvature and gradient along a random direction, within the tolerance, absolute and relative."""
    torch.manual_seed(1)
    direction = tree.randn_like(params)
    expected, grads = double_backward(loss, params, direction, *args)
    captured = capture(loss)
    step = grad_and_quadratic(captured, lambda g: direction)(params, *args)
    for got in (quadratic_along(captured)(params, direction, *args), step.quadratic):
        assert [float(number) for number in got] == pytest.approx(expected, rel=tolerance, abs=tolerance)
    for got, grad in zip(step.grads.values(), grads, strict=True):
        torch.testing.assert_close(got, grad.detach(), rtol=tolerance, atol=tolerance)
