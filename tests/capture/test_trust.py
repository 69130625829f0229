"""Functions and operators that the caller trusts: exact where they are right, refused on the spot where not."""

import pytest
import torch
from torch.autograd.function import once_differentiable

from alpha_func import capture, grad_and_quadratic, quadratic_along
from alpha_func.errors import CaptureError
from tests.helpers.reference import assert_close, double_backward


class Cubed(torch.autograd.Function):
    """x³ with its own backward, as a fused kernel has."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, λ):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * λ


class OnceCubed(Cubed):
    @staticmethod
    @once_differentiable
    def backward(ctx, λ):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * λ


class WithJvp(Cubed):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, t):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * t


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, λ):
        return λ


class HalfTheGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, λ):
        return λ


X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
D = torch.tensor([1.0, 0.5, -0.7], dtype=torch.float64)


def of(function):
    return lambda x: (function(x.sin()) + x).exp().sum()


IN_TORCH = of(lambda x: x**3)


def assert_right(captured):
    truth, norm = double_backward(IN_TORCH, X, D)
    for got in (quadratic_along(captured)(X, D), grad_and_quadratic(captured, lambda _: D)(X).quadratic):
        assert_close(got.value, truth.value, 1e-12)
        assert_close(got.slope, truth.slope, 1e-12, abs(truth.slope) + norm)
        assert_close(got.curvature, truth.curvature, 1e-12, D.norm() * norm)


@pytest.mark.parametrize("function", [Cubed, OnceCubed, WithJvp])
def test_a_function_whose_backward_is_its_derivative_is_captured(function):
    loss = of(function.apply)
    with pytest.raises(CaptureError):
        capture(loss)(X)
    assert_right(capture(loss, trust=[function], strict=True))


class Detaching(Cubed):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.detach() ** 3  # within a forward the same as x**3, in a program a constant


@pytest.mark.parametrize("function", [StraightThrough, HalfTheGradient, Detaching])
def test_a_function_with_another_backward_is_refused_though_trusted(function):
    with pytest.raises(
        CaptureError, match=r"whose derivatives are wrong here|derivatives of the captured program differ"
    ):
        capture(of(function.apply), trust=function)(X)


def operator(name, backward):
    made = torch.library.custom_op(
        f"alpha_func_tests::{name}", lambda x: x**3, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    made.register_fake(torch.empty_like)
    made.register_autograd(backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
    return getattr(torch.ops.alpha_func_tests, name)


def test_an_operator_with_a_differentiable_backward_is_one_call():
    cubed = operator("cubed", lambda ctx, λ: 3 * ctx.saved_tensors[0] ** 2 * λ)
    loss = of(cubed)
    with pytest.raises(CaptureError, match=r"alpha_func_tests\.cubed.*trust="):
        capture(loss)(X)
    captured = capture(loss, trust=[cubed])
    assert_right(captured)
    assert captured.program(X).counts["cubed"] == 1


def test_an_operator_with_a_wrong_backward_is_refused():
    wrong = operator("wrongly_cubed", lambda ctx, λ: 2 * ctx.saved_tensors[0] ** 2 * λ)
    with pytest.raises(CaptureError, match="whose derivatives are wrong here"):
        capture(of(wrong), trust=[wrong])(X)


def test_what_cannot_be_trusted_is_said():
    with pytest.raises(TypeError, match="trust must hold"):
        capture(IN_TORCH, trust=[torch.sin])
