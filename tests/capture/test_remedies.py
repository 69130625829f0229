"""The remedy that a refusal names has been tried on the very loss: capture and no capture never name each other."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alpha_func import capture, functional_loss, quadratic_along
from alpha_func.errors import CaptureError, StrategyError
from tests.helpers.reference import assert_close, double_backward


def batch(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def of_module(make, *args, **options):
    torch.manual_seed(0)
    return *functional_loss(make().double(), **options), args


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(checkpoint(lambda h: self.layer(h).tanh(), x, use_reentrant=False)).square().mean()


def critic():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def gradient_penalty(net, x):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return net(x).mean() + (g.norm(dim=1) - 1).square().mean()


def residual(net, x):
    (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return (g - 1).square().mean() + net(x).square().mean()


def of_function(loss, *args):
    return lambda: (loss, batch(4, 3), args)


BY_DOUBLE_BACKWARD = {
    "a boolean index": of_function(lambda p: p[p > 0].square().sum()),
    "a branch on a value": of_function(lambda p: p.square().sum() if p.sum() > -100 else p.sum()),
}
BY_CAPTURE = {
    "checkpointing": lambda: of_module(Checkpointed, batch(5, 3)),
    "EmbeddingBag": lambda: of_module(
        lambda: nn.EmbeddingBag(6, 3), torch.tensor([[0, 1], [2, 2]]), loss_of=lambda net, i: net(i).square().sum()
    ),
    "cdist": of_function(lambda p, x: torch.cdist(p, x).square().mean(), batch(5, 3)),
    "WGAN-GP": lambda: of_module(critic, batch(5, 3), loss_of=gradient_penalty),
    "PINN": lambda: of_module(critic, batch(5, 3).requires_grad_(), loss_of=residual),
    "WGAN-GP by torch.func": lambda: of_module(
        critic, batch(5, 3), loss_of=lambda net, x: torch.func.grad(lambda x: net(x).sum())(x).square().mean()
    ),
}
BY_NOTHING = {
    "an ordinary ctc_loss": of_function(
        lambda p: F.ctc_loss(p[:, None].log_softmax(-1), torch.tensor([[1]]), torch.tensor([4]), torch.tensor([1]))
    ),
}


@pytest.mark.parametrize("name", BY_DOUBLE_BACKWARD)
def test_the_uncaptured_loss_is_named_where_it_runs(name):
    loss, params, args = BY_DOUBLE_BACKWARD[name]()
    with pytest.raises(CaptureError, match="use the uncaptured loss, which runs"):
        capture(loss)(params, *args)
    for got, expected in zip(
        quadratic_along(loss)(params, params, *args), double_backward(loss, params, params, *args)[0], strict=True
    ):
        assert_close(got, expected, 1e-10, 1 + abs(expected))


@pytest.mark.parametrize("name", BY_CAPTURE)
def test_capture_is_named_where_it_runs(name):
    loss, params, args = BY_CAPTURE[name]()
    captured = quadratic_along(capture(loss))(params, params, *args)
    try:
        found = quadratic_along(loss)(params, params, *args)
    except StrategyError as error:
        assert re.search(r"use capture\(loss\), which runs", str(error))  # noqa: PT017
    else:  # it runs uncaptured too
        assert_close(found.curvature, captured.curvature, 1e-10, 1 + abs(captured.curvature))


@pytest.mark.filterwarnings("ignore:the second derivative of ctc_loss has never been verified")
@pytest.mark.parametrize("name", BY_NOTHING)
def test_neither_is_named_where_neither_runs(name):
    loss, params, args = BY_NOTHING[name]()
    for wrapped in (loss, capture(loss)):
        with pytest.raises((StrategyError, CaptureError)) as raised:
            quadratic_along(wrapped)(params, params, *args)
        assert not re.search(r"use (capture\(loss\)|the uncaptured loss)|strategy=", str(raised.value))
