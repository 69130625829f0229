"""Tensors that have several places in a module: a program has them as the loss does, whatever becomes of the ties."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic
from alpha_func.losses import module_loss
from tests.helpers.whole import WHOLE


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("same_scale", torch.ones(3))

    def forward(self, x):
        self.scale.add_(self.same_scale)
        return self.third(self.second(self.first(x).tanh() * (self.scale + self.same_scale)).sin())


def two_weights(net):
    net.second.weight = net.first.weight


def the_last_is_first(net):
    net.first.bias = net.third.bias = net.second.bias


def two_modules(net):
    net.third = net.first


def two_buffers(net):
    net.same_scale = net.scale


def with_frozen_ones(net):
    two_weights(net)
    net.first.bias.requires_grad_(False)
    net.third.bias = net.first.bias
    net.third.weight.requires_grad_(False)


def alone(net):
    net.second.weight = nn.Parameter(torch.full_like(net.first.weight, 0.3))


def tied_to_a_frozen_place(net):
    net.third.weight = net.first.weight


def no_longer_frozen(net):
    net.third.weight.requires_grad_(True)


def check(captured, loss, params, *batch):
    for answer in (lambda of: of(params, *batch), lambda of: grad_and_quadratic(of)(params, *batch)):
        torch.testing.assert_close(answer(captured), answer(loss), rtol=1e-10, atol=1e-12)


def tied(tie):
    torch.manual_seed(0)
    net = Net().double()
    tie(net)
    loss, params = functional_loss(net, F.mse_loss)
    return net, capture(loss, strict=True), loss, params, (torch.randn(5, 3).double(), torch.randn(5, 3).double())


@pytest.mark.parametrize(
    "tie",
    [
        two_buffers,
        with_frozen_ones,
        *(pytest.param(tie, marks=WHOLE) for tie in (two_weights, the_last_is_first, two_modules)),
    ],
)
def test_what_is_tied_moves_together(tie):
    _, captured, loss, params, batch = tied(tie)
    check(captured, loss, params, *batch)
    check(captured, loss, params, *batch)
    assert captured.captured == 1


@pytest.mark.parametrize("change", [alone, tied_to_a_frozen_place, no_longer_frozen])
def test_a_tie_that_changes_is_seen(change):
    net, captured, loss, params, batch = tied(with_frozen_ones)
    check(captured, loss, params, *batch)
    change(net)
    check(captured, loss, params, *batch)
    assert captured.captured == 2


def test_known_ties_are_not_looked_for_in_a_recording(monkeypatch):
    def eagerly(*args, **kwargs):
        assert not torch.compiler.is_dynamo_compiling()
        return torch.func.functional_call(*args, **kwargs)

    monkeypatch.setattr(module_loss, "functional_call", eagerly)
    _, captured, loss, params, batch = tied(with_frozen_ones)
    check(captured, loss, params, *batch)


@pytest.mark.parametrize("tie", [pytest.param(two_weights, marks=WHOLE), two_buffers])
def test_a_loss_that_calls_it_twice_finds_the_same_buffers(tie):
    _, _, loss, params, batch = tied(tie)
    twice = capture(lambda p, *batch: loss(p, *batch) + 2 * loss(p, *batch), strict=True)
    torch.testing.assert_close(twice(params, *batch), 3 * loss(params, *batch), rtol=1e-12, atol=0)
