"""Hooks that a loss puts on its own modules while it runs are recorded, and nothing is seen of them afterwards."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, quadratic_along
from tests.helpers.reference import double_backward
from tests.helpers.whole import WHOLE


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.hooked = nn.Linear(3, 4), nn.Linear(4, 2), False
        self.first.register_forward_hook(lambda module, args, out: out + 1)


class AtItsFirstCall(Net):  # as transformers does, where hidden states are asked for
    def forward(self, x):
        if not self.hooked:
            self.first.register_forward_hook(lambda module, args, out: 3 * out)
            self.hooked = True
        return self.last(self.first(x).tanh())


class Keeping(Net):
    def forward(self, x):
        kept = {}

        def keep(name):
            def hook(module, args, out):
                kept[name] = out

            return hook

        with ExitStack() as hooks:
            for name, module in self.named_children():
                hooks.enter_context(module.register_forward_hook(keep(name)))
            out = self.last(self.first(x).tanh())
        self.first(x + 1)
        return out + kept["first"].square().sum() * kept["last"].mean()


class InOrder(Net):  # the one that is there comes second, or first
    def forward(self, x):
        before = self.first.register_forward_hook(lambda module, args, out: 3 * out, prepend=True)
        y = self.first(x)
        before.remove()
        with self.first.register_forward_hook(lambda module, args, out: out * out):
            before.remove()  # the second time, nothing
            y = y + self.first(x)
        return self.last((y + self.first(x)).tanh())


class BeforeAndWithKeywords(Net):
    def forward(self, x):
        def scaled(module, args, kwargs):
            return args, {"input": kwargs["input"] * 2}

        self.first.register_forward_pre_hook(scaled, with_kwargs=True)
        self.last.register_forward_pre_hook(lambda module, args: args[0].sin())
        self.last.register_forward_hook(lambda module, args, kwargs, out: out + len(kwargs), with_kwargs=True)
        return self.last(self.first(input=x).tanh())


@pytest.mark.parametrize(
    "kind", [AtItsFirstCall, InOrder, *(pytest.param(kind, marks=WHOLE) for kind in (Keeping, BeforeAndWithKeywords))]
)
def test_hooks_that_the_loss_puts_on_are_in_the_program(kind):
    torch.manual_seed(0)
    net = kind().double()
    loss, params = functional_loss(net, F.mse_loss)
    d = {name: torch.randn_like(p) for name, p in params.items()}
    batch = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    captured, (truth, _) = capture(loss, strict=True), double_backward(loss, params, d, *batch)
    for _ in range(2):
        torch.testing.assert_close(quadratic_along(captured)(params, d, *batch), truth, rtol=1e-12, atol=1e-12)
    assert captured.captured == 1
    assert not net.hooked
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.children()] == [1, 0]


def test_a_model_that_has_put_its_hooks_on_is_recorded_anew():
    torch.manual_seed(0)
    net, x, y = AtItsFirstCall(), torch.randn(5, 3), torch.randn(5, 2)
    loss, params = functional_loss(net, F.mse_loss)
    captured = capture(loss)
    before = captured(params, x, y)
    net(x)
    torch.testing.assert_close(captured(params, x, y), before)
    assert captured.captured == 2
