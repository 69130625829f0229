"""Where a formula says 0·∞ or 0/0 and PyTorch's double backward gives a number, a captured loss gives it too."""

import math

import pytest
import torch

from alpha_func import Quadratic, capture, grad_and_quadratic, quadratic_along
from alpha_func.transforms import STRATEGIES, quadratic_in_span
from tests.helpers.reference import double_backward

X = torch.tensor([0.7, -0.4, 0.0, 1.3], dtype=torch.float64)
D = torch.tensor([0.3, -1.0, 0.8, 0.5], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 1.4, 1.7, 2.0], dtype=torch.float64)

ORDERS = (1.5, 2.5, 3, 4)
SINGULAR = {
    **{f"norm {p} of zeros": lambda x, p=p: torch.linalg.vector_norm(x * 0.0, p) for p in ORDERS if p > 2},
    **{f"norm {p} of what a relu holds": lambda x, p=p: torch.linalg.vector_norm(x.relu(), p) for p in ORDERS},
    **{f"norm {p} of rows": lambda x, p=p: torch.linalg.vector_norm(x.relu().reshape(2, 2), p, 1) for p in ORDERS},
    "atan2 at the origin": lambda x: torch.atan2(x, torch.zeros_like(x)),
    "atan2 of the origin": lambda x: torch.atan2(x * 0.0, x),
    "distance 3 of nothing": lambda x: torch.dist(x, x.detach(), 3),
    "pow by ones": lambda x: torch.pow(x, torch.ones_like(x)),
    "pow by twos": lambda x: torch.pow(x, torch.full_like(x, 2.0)),
    "root of a relu": lambda x: x.relu().sqrt(),
    "power of a relu": lambda x: x.relu() ** 1.5,
}


def of(names):
    def loss(x):
        found = [SINGULAR[name](x) for name in names]
        return sum((y.reshape(-1) * WEIGHTS[: y.numel()]).sum() for y in found)

    return loss


def _line(span):
    return Quadratic(span.value, span.slopes[0], span.curvature[0, 0])


def off(names):
    """What is off of the sum of these; where PyTorch's own is nan, no derivative is finite but that of a constant."""
    each = [torch.stack(list(double_backward(of([name]), X, D)[0])).nan_to_num() for name in names]
    expected = torch.stack(each).sum(0)
    captured = capture(of(names), strict=True)
    for way, got in (
        ("sweep", quadratic_along(captured)(X, D)),
        ("span", _line(quadratic_in_span(captured)(X, [D]))),
        ("adjoint", grad_and_quadratic(captured, lambda _: D)(X).quadratic),
    ):
        for what, number, want in zip(("value", "slope", "curvature"), got, expected, strict=True):
            if not abs(number - want) <= 1e-12 * (1 + abs(want)):
                yield f"{what} by {way}: {float(number)} for {float(want)}"


def test_sweeps_are_finite_where_double_backward_is():
    found = [*off(SINGULAR)] and [f"{name}: {what}" for name in SINGULAR for what in off([name])]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [name for name in SINGULAR if name.startswith(("pow by", "norm 3 of zeros"))])
def test_a_strategy_on_the_program_is_finite_where_double_backward_is(name):
    expected = double_backward(of([name]), X, D)[0]
    for strategy in STRATEGIES:
        got = quadratic_along(capture(of([name])), strategy=strategy)(X, D)
        torch.testing.assert_close(tuple(got), tuple(expected), msg=lambda said, s=strategy: f"{s}: {said}")


def test_the_gradient_of_a_sweep_is_finite_at_a_norm_of_zeros():
    x = X.clone().requires_grad_()
    slope = quadratic_along(capture(of(["norm 3 of zeros"])))(x, D).slope
    torch.testing.assert_close(torch.autograd.grad(slope, x)[0], torch.zeros_like(X))


@pytest.mark.parametrize("y", [0.0, -0.0])
@pytest.mark.parametrize("x", [0.0, -0.0])
def test_the_angle_of_the_origin_keeps_the_signs_of_its_zeros(y, x):
    y, x = (torch.tensor([z], dtype=torch.float64) for z in (y, x))
    assert capture(lambda y: torch.atan2(y, x).sum())(y) == torch.atan2(y, x)


@pytest.mark.parametrize(("f", "slope"), [(torch.special.entr, -1 - math.log(2)), (torch.sqrt, 1 / math.sqrt(8))])
def test_what_does_not_move_has_a_derivative_by_its_tangent(f, slope):
    """The gradient of a slope where a tangent is 0, through f(p² + 2)."""
    p, d = torch.zeros(2, dtype=torch.float64), torch.tensor([0.5, -0.4], dtype=torch.float64)
    quadratic = quadratic_along(capture(lambda p: f(p.square() + 2).sum()))
    torch.testing.assert_close(torch.func.grad(lambda p: quadratic(p, d).slope)(p), 2 * slope * d)
