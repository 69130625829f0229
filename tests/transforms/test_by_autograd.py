"""Losses that torch.func cannot run are differentiated by autograd alone."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from alpha_func import functional_loss, grad_and_quadratic, hvp, quadratic_along, tree
from alpha_func.errors import StrategyError
from tests.helpers.reference import assert_close, differences

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
X, Y = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)


def by_a_batch_of_its_own(model, x):
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return ((slope.norm(dim=1) - 1) ** 2).mean()


def by_the_callers_batch(model, x):
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return ((slope.norm(dim=1) - 1) ** 2).mean()


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(2, 3, batch_first=True)

    def forward(self, x):
        packed = pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].square().mean()


CASES = {
    "gradient_penalty": lambda: (*functional_loss(NET, loss_of=by_a_batch_of_its_own), (X,)),
    "of_a_batch_that_requires_grad": lambda: (
        *functional_loss(NET, loss_of=by_the_callers_batch),
        (X.clone().requires_grad_(),),
    ),
    "packed_sequence": lambda: (*functional_loss(Packed().double()), (X.reshape(2, 3, 2),)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_that_runs_only_outside_of_torch_func_is_exact(name):
    torch.manual_seed(1)
    loss, params, batch = CASES[name]()
    d = tree.map(torch.randn_like, params)
    truth = differences(loss, params, d, *batch)
    quadratic = quadratic_along(loss)
    for _ in range(2):  # found out at the first call, remembered at the second
        value, slope, curvature = quadratic(params, d, *batch)
        assert_close(value, loss(params, *batch), 1e-12)
        assert_close(slope, truth.slope, 1e-7, 1 + abs(truth.slope))
        assert_close(curvature, truth.curvature, 1e-7, 1 + abs(truth.curvature))
    assert_close(tree.vdot(d, hvp(loss)(params, d, *batch)), curvature, 1e-12)
    step = grad_and_quadratic(loss, lambda grads: d)(params, *batch)
    assert_close(tree.vdot(d, step.grads), slope, 1e-12)
    assert_close(step.quadratic.curvature, curvature, 1e-12)


def test_a_checkpoint_which_computes_at_the_modules_weights_is_refused():
    loss, params = functional_loss(
        NET, loss_of=lambda model, x: checkpoint(model, x, use_reentrant=False).square().mean()
    )
    with pytest.raises(StrategyError, match=r"saved tensor hooks.*capture\(loss\)"):
        quadratic_along(loss)(params, params, X)


def test_the_numbers_of_such_a_loss_carry_no_graph():
    loss, params = functional_loss(NET, loss_of=by_a_batch_of_its_own)
    found = quadratic_along(loss)(params, params, X)
    assert not any(number.requires_grad for number in found)


@pytest.mark.parametrize("strategy", ["reverse_over_forward", "forward_over_forward"])
def test_forward_mode_of_a_derivative_inside_names_a_strategy_that_runs(strategy):
    def balanced(w, x):
        first, second = (x @ w).square().mean(), torch.tanh(x @ w).mean()
        sizes = [torch.autograd.grad(part, w, retain_graph=True)[0].norm() for part in (first, second)]
        return first + (sizes[0] / sizes[1]).detach() * second

    w = torch.tensor([0.5, -1.0], dtype=torch.float64)
    with pytest.raises(StrategyError, match="use strategy='reverse_over_reverse', which runs on this loss"):
        quadratic_along(balanced, strategy=strategy)(w, w, X)
    quadratic_along(balanced)(w, w, X)
