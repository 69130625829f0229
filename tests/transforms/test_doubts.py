"""Operators that nobody has verified, under the uncaptured strategies: warned of, until a check passes."""

import warnings

import pytest
import torch

from alpha_func import check_quadratic, quadratic_along
from alpha_func.errors import StrategyError
from tests.helpers.reference import assert_close

X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)


def function(backward):
    """A new ``autograd.Function`` of x³."""

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    ways = {"forward": lambda x: x**3, "setup_context": setup_context, "backward": backward}
    kind = type("Kernel" + backward.__name__, (torch.autograd.Function,), {n: staticmethod(f) for n, f in ways.items()})
    return kind.apply


def operator(backward):
    """A new operator of torch.library of x³."""
    made = torch.library.custom_op(
        f"doubts::kernel_{backward.__name__}", lambda x: x**3, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    made.register_autograd(backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
    return made


def right(ctx, λ):
    return 3 * ctx.saved_tensors[0] ** 2 * λ


def taken_for_constant(ctx, λ):
    return 3 * ctx.saved_tensors[0].detach() ** 2 * λ


def twice_too_large(ctx, λ):
    return 6 * ctx.saved_tensors[0] ** 2 * λ


def warned(loss):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = quadratic_along(loss)(X, X)
    return found, [str(w.message) for w in caught if "never been verified" in str(w.message)]


@pytest.mark.parametrize("kind", [function, operator])
def test_a_check_that_passes_settles_what_nobody_had_verified(kind):
    kernel = kind(right)

    def loss(x):
        return kernel(x.sin()).exp().sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_quadratic(loss, X, X).agrees
    found, messages = warned(loss)
    assert messages == []
    assert_close(found.curvature, quadratic_along(lambda x: (x.sin() ** 3).exp().sum())(X, X).curvature, 1e-12)


def test_an_operator_of_torch_library_has_no_forward_derivative():
    kernel = operator(right)
    with pytest.raises(StrategyError, match=r"forward derivative as zero.* use strategy='reverse_over_reverse'"):
        quadratic_along(lambda x: kernel(x).exp().sum(), strategy="forward_over_forward")(X, X)


@pytest.mark.parametrize("backward", [taken_for_constant, twice_too_large])
@pytest.mark.parametrize("kind", [function, operator])
def test_a_check_that_fails_settles_nothing(kind, backward):
    kernel = kind(backward)

    def loss(x):
        return kernel(x.sin()).exp().sum()

    assert not check_quadratic(loss, X, X).agrees
    assert len(warned(loss)[1]) == 1


def zero(ctx, λ):
    return torch.zeros_like(λ)


class Recomputed(torch.autograd.Function):
    """A reversible block: its backward computes again, and differentiates without a graph."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x + (x * w).tanh()

    @staticmethod
    def backward(ctx, λ):
        with torch.enable_grad():
            x, w = (each.detach().requires_grad_() for each in ctx.saved_tensors)
            y = x + (x * w).tanh()
        return torch.autograd.grad(y, (x, w), λ)


@pytest.mark.parametrize("after", [torch.sin, lambda y: y], ids=["curved after", "linear after"])
def test_a_backward_that_loses_its_graph_is_refused(after):
    with pytest.raises(StrategyError, match=r"recomputed is an autograd\.Function .* cannot be differentiated"):
        quadratic_along(lambda x: after(Recomputed.apply(x.exp(), x)).sum())(X, X)


@pytest.mark.filterwarnings("ignore:the second derivative of kernel")
def test_a_backward_that_gives_zeros_is_no_backward_without_a_graph():
    kernel = function(zero)
    found = quadratic_along(lambda x: (x * kernel(x).detach() + x**2).sum() + kernel(x).sum())(X, X)
    assert_close(found.curvature, 2 * X.square().sum(), 1e-12)
