"""The best learning rate and momentum: against the dense quadratic in their span, and for SGD and Adam."""

import pytest
import torch
from torch import nn

from alpha_func import capture, from_optimizer, optimal_alpha, quadratic_along, tree
from alpha_func.transforms import lr_and_momentum
from tests.helpers.cases import mse_net
from tests.helpers.reference import assert_close, dense, flat


def point():
    case = mse_net(activation=nn.Tanh)
    previous = tree.scale(0.1, tree.randn_like(case.params, generator=torch.Generator().manual_seed(3)))
    grads = torch.func.grad(case.loss)(case.params, *case.args)
    return case, previous, grads


@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("captured", [False, True])
def test_they_solve_the_two_equations_of_the_dense_quadratic(captured, damping):
    case, previous, grads = point()
    d = tree.neg(grads)
    verb = lr_and_momentum(capture(case.loss, strict=True) if captured else case.loss, damping=damping)
    best = verb(case.params, d, previous, *case.args)
    truth, D = dense(case.loss, case.params, *case.args), torch.stack([flat(d), flat(previous)])
    matrix = D @ truth.hessian @ D.T + damping * D @ D.T
    expected = torch.linalg.solve(matrix, -D @ truth.gradient)
    assert (torch.stack([best.lr, best.momentum]) - expected).norm() <= 1e-10 * expected.norm()


def test_no_single_line_reaches_lower():
    case, previous, grads = point()
    best = lr_and_momentum(case.loss, damping=0.0)(case.params, tree.neg(grads), previous, *case.args)
    alone = quadratic_along(case.loss)(case.params, tree.neg(grads), *case.args)
    assert best.quadratic.is_minimum
    assert best.quadratic.minimum < alone.minimum


@pytest.mark.parametrize("what", ["zero", "a multiple"])
def test_without_a_step_before_the_momentum_is_zero_if_it_is(what):
    case, _, grads = point()
    d = tree.neg(grads)
    previous = tree.zeros_like(d) if what == "zero" else tree.scale(-0.3, d)
    best = lr_and_momentum(case.loss)(case.params, d, previous, *case.args)
    assert best.momentum == 0
    assert_close(best.lr, optimal_alpha(case.loss)(case.params, d, *case.args), 1e-14)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, {"betas": (0.9, 0.99)}),
        (torch.optim.AdamW, {"betas": (0.9, 0.99), "weight_decay": 0.1}),
        (torch.optim.RMSprop, {"momentum": 0.5}),
    ],
)
def test_a_step_without_momentum_is_made_of_the_gradient_alone(optimizer, options):
    case, _, grads = point()
    direction = from_optimizer(optimizer, lr=0.1, **options)
    state = direction.init(case.params)
    for _ in range(3):  # something to average
        _, state = direction.update(tree.scale(2.0, grads), state, case.params)
    got, _ = direction.without_momentum().update(grads, state, case.params)
    for name, g in grads.items():
        if optimizer is torch.optim.SGD:
            expected = -g
        elif optimizer is torch.optim.RMSprop:
            v = 0.99 * state[name]["square_avg"] + 0.01 * g * g
            expected = -g / (v.sqrt() + 1e-8)
        else:
            v = 0.99 * state[name]["exp_avg_sq"] + 0.01 * g * g
            expected = -g / ((v / (1 - 0.99**4)).sqrt() + 1e-8) - options.get("weight_decay", 0) * case.params[name]
        torch.testing.assert_close(got[name], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("damping", [-1.0, float("nan")])
def test_a_damping_is_refused(damping):
    with pytest.raises(ValueError, match=f"damping is {damping}: give a number of at least 0"):
        lr_and_momentum(torch.sum, damping=damping)


def test_a_direction_of_zeros_is_refused_by_its_name():
    case, previous, _ = point()
    with pytest.raises(ValueError, match=r"^direction is zero"):
        lr_and_momentum(case.loss)(case.params, tree.scale(0.0, previous), previous, *case.args)
