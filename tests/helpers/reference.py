"""The truth that tests compare against, by routes that are right (none of them the library's).

``torch.func.hessian`` is not one of them: it is wrong through layer_norm and train-mode batch_norm. The dense Hessian
here is a double backward in a plain loop over unit vectors; differences along the line check that one in turn.
"""

from typing import NamedTuple

import torch

from alpha_func import Quadratic, tree


class Dense(NamedTuple):
    """The value, gradient and Hessian of a loss, by torch.autograd, flat in the order of the leaves."""

    value: torch.Tensor
    gradient: torch.Tensor
    hessian: torch.Tensor

    def quadratic_along(self, direction):
        d = flat(direction)
        return Quadratic(self.value, d @ self.gradient, d @ self.hessian @ d)


def flat(x):
    return torch.cat([leaf.reshape(-1) for leaf in tree.leaves(x)])


def unflat(vector, like):
    leaves, structure = tree.flatten(like)
    parts = vector.split([leaf.numel() for leaf in leaves])
    return tree.unflatten([part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)], structure)


def dense(loss, params, *args, **kwargs):
    """Value, gradient and Hessian: one double backward a row."""
    leaves, structure = tree.flatten(params)
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    value = loss(tree.unflatten(leaves, structure), *args, **kwargs)
    gradient = flat(torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True))
    if not gradient.requires_grad:  # a loss that is linear
        return Dense(value.detach(), gradient, torch.zeros(len(gradient), len(gradient), dtype=gradient.dtype))
    rows = [
        flat(torch.autograd.grad(entry, leaves, retain_graph=True, materialize_grads=True)).detach()
        for entry in gradient
    ]
    return Dense(value.detach(), gradient.detach(), torch.stack(rows))


def double_backward(loss, params, direction, *args, **kwargs):
    """The quadratic by double backward of torch.autograd, and ‖Hd‖: right wherever its formulas are."""
    leaves, structure = tree.flatten(params)
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    value = loss(tree.unflatten(leaves, structure), *args, **kwargs)
    gradient = flat(torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True))
    slope = flat(direction) @ gradient
    if not slope.requires_grad:  # a loss that is linear
        return Quadratic(value.detach(), slope, torch.zeros_like(slope)), torch.zeros_like(slope)
    hd = flat(torch.autograd.grad(slope, leaves, materialize_grads=True))
    return Quadratic(value.detach(), slope.detach(), flat(direction) @ hd), hd.norm()


def differences(loss, params, direction, *args, **kwargs):
    """The quadratic by central differences of h(α) = L(θ + αd) in float64, extrapolated (Ridders, 1982).

    Right to about 1e-8 of the curvature's scale, where h has no kink nearby.
    """

    def h(alpha):
        return loss(tree.axpy(alpha, direction, params), *args, **kwargs).double()

    value, unit = h(0.0), 1 / float(tree.norm(direction))
    steps = [unit * 0.2 / 1.6**k for k in range(12)]
    slope = extrapolated([(h(s) - h(-s)) / (2 * s) for s in steps], 1.6)
    curvature = extrapolated([(h(s) - 2 * value + h(-s)) / s**2 for s in steps], 1.6)
    return Quadratic(value, slope, curvature)


def extrapolated(estimates, ratio):
    """The limit of estimates whose error is even in a step that shrinks by ``ratio``: the entry of Neville's tableau
    that changes least."""
    best, change = estimates[-1], float("inf")
    previous = [estimates[0]]
    for estimate in estimates[1:]:
        row = [estimate]
        for order, older in enumerate(previous):
            factor = ratio ** (2 * (order + 1))
            row.append((factor * row[order] - older) / (factor - 1))
            moved = max(abs(row[-1] - row[-2]), abs(row[-1] - older))
            if moved < change:
                best, change = row[-1], moved
        previous = row
    return best


def assert_close(got, expected, tol, scale=None):
    """|got − expected| ≤ tol·scale; the scale is |expected| unless terms cancel in it. Prints both numbers."""
    scale = abs(expected) if scale is None else scale
    error = abs(got.double() - expected.double())
    assert error <= tol * scale, f"got {float(got)!r}, expected {float(expected)!r}, error/scale {float(error / scale)}"


def assert_quadratic(got, truth, direction, tol):
    """Terms cancel in slope and curvature: their errors are measured against ‖d‖‖g‖ and ‖d‖‖Hd‖."""
    d = flat(direction)
    expected = truth.quadratic_along(direction)
    assert_close(got.value, expected.value, tol)
    assert_close(got.slope, expected.slope, tol, d.norm() * truth.gradient.norm())
    assert_close(got.curvature, expected.curvature, tol, d.norm() * (truth.hessian @ d).norm())


def dense_with_math_attention(case):
    """The dense reference of a case whose fused attention kernels have no second derivative."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return dense(case.loss, case.params, *case.args)
