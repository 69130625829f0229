"""A captured loss under the transforms: its Taylor and adjoint programs, eager and compiled."""

import pytest
import torch
from torch import func

from alpha_func import Quadratic, capture, grad_and_quadratic, optimal_alpha, quadratic_along, tree
from alpha_func.losses.kernels import twice_differentiable
from tests.helpers.cases import MODULES, mse_net
from tests.helpers.reference import assert_close, assert_quadratic, dense, flat
from tests.helpers.whole import a_few_of

CASES = {**MODULES, "first_experiment": mse_net}


def truth_of(case):
    with twice_differentiable():
        return dense(case.loss, case.params, *case.args)


@pytest.mark.parametrize("name", CASES)
def test_taylor_program_is_exact_on(name):
    case = CASES[name]()
    got = quadratic_along(capture(case.loss))(case.params, case.direction, *case.args)
    assert_quadratic(got, truth_of(case), case.direction, 1e-12)


@pytest.mark.parametrize("direction", [None, lambda grads: tree.scale(-2.0, grads)], ids=["descent", "a function"])
@pytest.mark.parametrize("name", CASES)
def test_adjoint_programs_are_exact_on(name, direction):
    case = CASES[name]()
    truth = truth_of(case)
    verb = grad_and_quadratic(capture(case.loss), *([direction] if direction else []))
    grads, d, quadratic = verb(case.params, *case.args)
    assert (flat(grads) - truth.gradient).norm() <= 1e-12 * truth.gradient.norm()
    assert torch.equal(flat(d), flat(direction(grads) if direction else tree.neg(grads)))
    assert_quadratic(quadratic, truth, d, 1e-12)


@pytest.mark.parametrize("name", a_few_of(CASES, ["first_experiment"]))
def test_compiled_programs_are_exact_on(name):
    case = CASES[name]()
    captured = capture(case.loss, backend="inductor")
    assert_quadratic(quadratic_along(captured)(case.params, case.direction, *case.args), truth_of(case),
                     case.direction, 1e-12)  # fmt: skip
    _, d, quadratic = grad_and_quadratic(captured)(case.params, *case.args)
    assert_quadratic(quadratic, truth_of(case), d, 1e-12)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_programs_run_under_vmap_and_grad(backend):
    case = mse_net(activation=torch.nn.Tanh)
    captured = capture(case.loss, backend=backend)
    directions = tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), case.direction)
    batched = func.vmap(lambda d: quadratic_along(captured)(case.params, d, *case.args))(directions)
    single = quadratic_along(case.loss)(case.params, case.direction, *case.args)
    assert_close(batched.curvature[1], 4 * single.curvature, 1e-12)

    def alpha(params, loss):
        return optimal_alpha(loss)(params, case.direction, *case.args)

    got = flat(func.grad(alpha)(case.params, captured))
    expected = flat(func.grad(alpha)(case.params, case.loss))
    assert (got - expected).norm() <= 1e-10 * expected.norm()  # a third derivative of a ratio: a few digits fewer


def test_gradient_of_alpha_is_right_through_layer_norm_when_captured():
    case = MODULES["layer_norm"]()
    captured = capture(case.loss)
    probe = tree.randn_like(case.params, generator=torch.Generator().manual_seed(7))

    def curvature(params):
        return quadratic_along(captured)(params, case.direction, *case.args).curvature

    _, got = func.jvp(curvature, (case.params,), (probe,))
    step = 1e-4
    forward, back = (curvature(tree.axpy(sign * step, probe, case.params)) for sign in (1, -1))
    assert_close(got, (forward - back) / (2 * step), 1e-5)  # what a central difference resolves


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_results_are_float32_or_better(dtype):
    case = mse_net(dtype=dtype)
    quadratic = grad_and_quadratic(capture(case.loss))(case.params, *case.args).quadratic
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {number.dtype for number in quadratic} == {expected}


def test_an_operator_verified_for_double_backward_alone_is_run_by_that():
    def loss(x):
        return x.cumprod(0).square().sum()

    x, d = torch.tensor([1.2, -0.7, 0.9], dtype=torch.float64), torch.tensor([0.3, 1.0, -0.5], dtype=torch.float64)
    truth = dense(loss, x)
    assert_quadratic(quadratic_along(capture(loss))(x, d), truth, d, 1e-12)
    _, d, quadratic = grad_and_quadratic(capture(loss))(x)
    assert_quadratic(quadratic, truth, d, 1e-12)


def test_strided_parameters_are_taken_as_they_are():
    case = mse_net()
    captured = capture(case.loss)
    expected = quadratic_along(captured)(case.params, case.direction, *case.args)
    strided = tree.map(lambda leaf: leaf.t().contiguous().t() if leaf.ndim == 2 else leaf, case.params)
    for backend in ("eager", "inductor"):
        got = quadratic_along(capture(case.loss, backend=backend))(strided, case.direction, *case.args)
        assert_close(got.curvature, expected.curvature, 1e-12)


def test_nothing_is_recorded_for_autograd_unless_parameters_ask_for_it():
    case = mse_net()
    verb = quadratic_along(capture(case.loss))
    assert not any(number.requires_grad for number in verb(case.params, case.direction, *case.args))
    params = tree.map(lambda leaf: leaf.requires_grad_(), tree.map(torch.clone, case.params))
    quadratic = verb(params, case.direction, *case.args)
    assert isinstance(quadratic, Quadratic)
    assert all(number.requires_grad for number in quadratic)


def test_a_derivative_of_the_quadratic_stops_where_the_loss_is_detached():
    def loss(x):
        return (x.sin().detach() * x.exp()).sum()

    x, d = torch.tensor([0.3, -1.2], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    for i in (1, 2):  # slope, curvature: both have exp for their derivative, and sin for a constant
        found = torch.func.grad(lambda x, i=i: quadratic_along(capture(loss))(x, d)[i])(x)
        torch.testing.assert_close(found, x.sin() * x.exp() * d**i)
