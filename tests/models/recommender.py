"""Recommenders."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.layers import mlp

architecture = of_field("Recommender, tables, time series")


FIELDS = 3


def clicks() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers, categories of each field, and whether it was clicked."""
    return torch.randn(5, 4), torch.randint(6, (5, FIELDS)), torch.rand(5).round()


def clicked(net: nn.Module) -> Example:
    """Binary cross entropy of clicks."""
    return Example(net, clicks(), lambda net, x, c, y: F.binary_cross_entropy_with_logits(net(x, c), y))


class Categories(nn.Module):
    """An embedding a field."""

    def __init__(self, width=4):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(6, width) for _ in range(FIELDS))

    def forward(self, c):
        return torch.stack([table(c[:, i]) for i, table in enumerate(self.tables)], 1)


@architecture("DLRM", "clicks, embedding bags of several categories")
def dlrm():
    """Naumov et al., 2019."""

    class Dlrm(nn.Module):
        def __init__(self):
            super().__init__()
            self.bags = nn.ModuleList(nn.EmbeddingBag(6, 4, mode="sum") for _ in range(FIELDS))
            self.bottom, self.top = mlp(4, 6, 4, act=nn.ReLU), mlp(10, 6, 1, act=nn.ReLU)

        def forward(self, x, c, offsets):
            dense = self.bottom(x)
            all_ = torch.stack([dense, *(bag(c[i], offsets) for i, bag in enumerate(self.bags))], 1)
            i, j = torch.tril_indices(4, 4, -1)
            return self.top(torch.cat([dense, (all_ @ all_.transpose(1, 2))[:, i, j]], 1))[:, 0]

    batch = torch.randn(5, 4), torch.randint(6, (FIELDS, 9)), torch.tensor([0, 2, 3, 6, 7]), torch.rand(5).round()
    return Example(Dlrm(), batch, lambda net, x, c, o, y: F.binary_cross_entropy_with_logits(net(x, c, o), y))


@architecture("Wide & Deep", "clicks")
def wide_and_deep():
    """Cheng et al., 2016."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.categories, self.deep = nn.Embedding(18, 1), Categories(), mlp(16, 6, 1, act=nn.ReLU)

        def forward(self, x, c):
            wide = self.wide(c + 6 * torch.arange(FIELDS)).sum((1, 2))
            return wide + self.deep(torch.cat([x, self.categories(c).flatten(1)], 1))[:, 0]

    return clicked(Both())


@architecture("DeepFM", "clicks, train mode")
def deepfm():
    """Guo et al., 2017."""

    class Factorised(nn.Module):
        def __init__(self):
            super().__init__()
            self.categories = Categories()
            self.deep = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 1))

        def forward(self, x, c):
            v = self.categories(c)
            pairs = (v.sum(1).square() - v.square().sum(1)).sum(1) / 2
            return pairs + self.deep(v.flatten(1))[:, 0]

    return clicked(Factorised())


@architecture("Deep & Cross v2", "clicks")
def deep_and_cross():
    """Wang et al., 2021."""

    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.categories, self.crosses, self.out = (
                Categories(2),
                nn.ModuleList(nn.Linear(10, 10) for _ in range(2)),
                nn.Linear(10, 1),
            )

        def forward(self, x, c):
            first = h = torch.cat([x, self.categories(c).flatten(1)], 1)
            for cross in self.crosses:
                h = first * cross(h) + h
            return self.out(h)[:, 0]

    return clicked(Crossed())


@architecture("Matrix factorisation, BPR", "pairs, weight decay in the loss")
def bpr():
    """Rendle et al., 2009."""

    class Factors(nn.Module):
        def __init__(self):
            super().__init__()
            self.users, self.items, self.bias = nn.Embedding(5, 3), nn.Embedding(7, 3), nn.Embedding(7, 1)

        def forward(self, u, i):
            return (self.users(u) * self.items(i)).sum(1) + self.bias(i)[:, 0]

    def loss_of(net, u, liked, other):
        decay = sum(p.square().sum() for p in net.parameters())
        return -F.logsigmoid(net(u, liked) - net(u, other)).mean() + 0.01 * decay

    return Example(Factors(), (torch.randint(5, (6,)), torch.randint(7, (6,)), torch.randint(7, (6,))), loss_of)


@architecture("Embeddings with sparse gradients", "nn.Embedding(sparse=True)")
def sparse_embedding():
    """Large tables, of which a batch sees a few rows."""
    net = nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))
    return Example(net, (torch.randint(9, (4, 2)), torch.randn(4)), lambda net, c, y: F.mse_loss(net(c)[:, 0], y))


@architecture("word2vec", "skip-grams, negative samples")
def word2vec():
    """Mikolov et al., 2013."""

    class SkipGram(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Embedding(8, 3), nn.Embedding(8, 3)

    def loss_of(net, word, near, others):
        w = net.inner(word)
        wrong = torch.bmm(net.outer(others), w[..., None])[..., 0]
        return -(F.logsigmoid((w * net.outer(near)).sum(1)) + F.logsigmoid(-wrong).sum(1)).mean()

    return Example(SkipGram(), (torch.randint(8, (5,)), torch.randint(8, (5,)), torch.randint(8, (5, 3))), loss_of)


@architecture("Two towers", "in-batch negatives, corrected logits")
def two_towers():
    """Yi et al., 2019."""

    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.user, self.item = (
                nn.Sequential(nn.Embedding(6, 4), mlp(4, 5, 3)),
                nn.Sequential(nn.Embedding(8, 4), mlp(4, 5, 3)),
            )

    def loss_of(net, u, i, log_p):
        logits = F.normalize(net.user(u), dim=1) @ F.normalize(net.item(i), dim=1).T / 0.3
        return F.cross_entropy(logits - log_p, torch.arange(len(u)))

    return Example(Towers(), (torch.randint(6, (4,)), torch.randint(8, (4,)), -torch.rand(4)), loss_of)


@architecture("SASRec", "next item, causal and padding masks")
def sasrec():
    """Kang & McAuley, 2018."""

    class Sequential(nn.Module):
        def __init__(self):
            super().__init__()
            self.items, self.places = nn.Embedding(9, 6, padding_idx=0), nn.Parameter(torch.randn(5, 6))
            self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=True, norm_first=True)

        def forward(self, seen):
            causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
            h = self.layer(self.items(seen) + self.places, src_mask=causal, src_key_padding_mask=seen == 0)
            return h @ self.items.weight.T

    seen = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    after = torch.tensor([[2, 3, 4, 5, 6], [7, 8, 1, 0, 0]])
    return Example(
        Sequential(), (seen, after), lambda net, x, y: F.cross_entropy(net(x).transpose(1, 2), y, ignore_index=0)
    )
