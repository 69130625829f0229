"""Models, losses and batches to test on: constructors, each seeded by its caller."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import functional_loss, tree

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "softplus": nn.Softplus}

MSE = nn.MSELoss()


class Case(NamedTuple):
    """A loss, the point and the direction of its quadratic, and its batch."""

    loss: Any
    params: Any
    direction: Any
    args: tuple


def line(module, criterion, *args, dtype=torch.float64, seed=0):
    """A case from a module: its parameters, and a random direction."""
    module = module.to(dtype)
    loss, params = functional_loss(module, criterion)
    args = tuple(a.to(dtype) if a.is_floating_point() else a for a in args)
    return Case(loss, params, tree.randn_like(params, generator=torch.Generator().manual_seed(seed)), args)


def mlp(sizes, activation=nn.Tanh):
    layers = [layer for m, n in pairwise(sizes) for layer in (nn.Linear(m, n), activation())]
    return nn.Sequential(*layers[:-1])


def squared_error(outputs, targets):
    """``nn.MSELoss`` in primitives: every strategy runs on it."""
    return (outputs - targets).square().mean()


def mse_net(seed=0, *, batch=32, hidden=(5,), activation=nn.ReLU, dtype=torch.float64, criterion=MSE):
    """The net of the first experiment, 10-5-1."""
    torch.manual_seed(seed)
    net = mlp([10, *hidden, 1], activation)
    return line(net, criterion, torch.randn(batch, 10), torch.randn(batch, 1), dtype=dtype, seed=seed)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def sequences(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return line(Recurrent(), nn.MSELoss(), torch.randn(4, 5, 3), torch.randn(4, 2), dtype=dtype, seed=seed)


class SelfAttention(nn.Module):
    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(-2, -3).flatten(-2))


class Tied(nn.Module):
    """Embedding and head share their weight."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


class Unused(nn.Module):
    """A parameter that the loss never sees."""

    def __init__(self):
        super().__init__()
        self.net, self.spare = mlp([3, 4, 2]), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.net(x)


def frozen():
    net = mlp([3, 4, 2])
    net[0].requires_grad_(False)
    return net


def _regression(make, *shape, targets=2):
    def case(dtype=torch.float64, seed=0, criterion=MSE):
        torch.manual_seed(seed)
        x = torch.randn(8, *(shape or (3,)))
        module = make()
        y = torch.randn(*x.shape[:-1], targets) if x.ndim < 4 else torch.randn(8, targets)
        return line(module, criterion, x, y, dtype=dtype, seed=seed)

    return case


def _tokens(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return line(Tied(), _next_token, torch.randint(7, (2, 5)), torch.randint(7, (2, 5)), dtype=dtype, seed=seed)


def _next_token(logits, tokens):
    return F.cross_entropy(logits.flatten(0, -2), tokens.flatten())


def normed(norm):
    return lambda: nn.Sequential(nn.Linear(3, 6), norm(), nn.Tanh(), nn.Linear(6, 2))


MODULES = {
    "mlp": _regression(lambda: mlp([3, 4, 2])),
    "layer_norm": _regression(normed(lambda: nn.LayerNorm(6))),
    "batch_norm_train": _regression(normed(lambda: nn.BatchNorm1d(6))),
    "batch_norm_eval": _regression(lambda: normed(lambda: nn.BatchNorm1d(6))().eval()),
    "dropout": _regression(normed(lambda: nn.Dropout(0.5))),
    "attention": _regression(SelfAttention, 5, 8, targets=8),
    "encoder_layer_eval": _regression(
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), 5, 8, targets=8
    ),
    "conv": _regression(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)), 2, 6, 6
    ),
    "tied": _tokens,
    "frozen": _regression(frozen),
    "unused": _regression(Unused),
}
