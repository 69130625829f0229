"""Recommenders, tables and time series."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.generative import mlp
from tests.models.hugging_face import tiny

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


@architecture("FT-Transformer", "clicks, a token a column")
def ft_transformer():
    """Gorishniy et al., 2021."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift, self.categories = (
                nn.Parameter(torch.randn(4, 4)),
                nn.Parameter(torch.randn(4, 4)),
                Categories(),
            )
            self.first, self.layer, self.out = (
                nn.Parameter(torch.randn(1, 4)),
                nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True),
                nn.Linear(4, 1),
            )

        def forward(self, x, c):
            tokens = x[..., None] * self.scale + self.shift
            h = torch.cat([self.first.expand(len(x), -1, -1), tokens, self.categories(c)], 1)
            return self.out(self.layer(h)[:, 0])[:, 0]

    return clicked(Tokens())


@architecture("TabNet", "clicks, sparsemax of columns, ghost batch norm")
def tabnet():
    """Arik & Pfister, 2021."""

    def sparsemax(z):
        top = z.sort(dim=1, descending=True).values
        k = torch.arange(1, z.shape[1] + 1).to(z)
        inside = 1 + k * top > top.cumsum(1)
        count = inside.sum(1, keepdim=True)
        threshold = (top.cumsum(1).gather(1, count - 1) - 1) / count
        return (z - threshold).clamp(min=0)

    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.shared, self.masks = (
                nn.BatchNorm1d(4),
                nn.Linear(4, 12),
                nn.ModuleList(nn.Linear(6, 4) for _ in range(2)),
            )
            self.out = nn.Linear(6, 1)

        def forward(self, x, c):
            x, used, total = self.norm(x), 1, 0
            h = F.glu(self.shared(x))
            for mask in self.masks:
                chosen = sparsemax(mask(h) * used)
                used = used * (1.5 - chosen)
                h = F.glu(self.shared(chosen * x))
                total = total + F.relu(h)
            return self.out(total)[:, 0]

    return clicked(Attentive())


@architecture("N-BEATS", "forecast, doubly residual")
def nbeats():
    """Oreshkin et al., 2020."""

    class Beats(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(mlp(6, 8, 9, act=nn.ReLU) for _ in range(2))

        def forward(self, x):
            total = 0
            for block in self.blocks:
                back, ahead = block(x).split((6, 3), 1)
                x, total = x - back, total + ahead
            return total

    def loss_of(net, x, y):
        got = net(x)
        return (2 * (got - y).abs() / (got.abs() + y.abs()).detach()).mean()  # the symmetric percentage error

    return Example(Beats(), (torch.randn(4, 6), torch.randn(4, 3)), loss_of)


@architecture("Temporal convolutional net", "forecast, weight norm, quantiles")
def tcn():
    """Bai et al., 2018."""
    from torch.nn.utils.parametrizations import weight_norm

    layers = [
        layer
        for d in (1, 2)
        for layer in (
            nn.ConstantPad1d((2 * d, 0), 0.0),
            weight_norm(nn.Conv1d(2 if d == 1 else 4, 4, 3, dilation=d)),
            nn.ReLU(),
        )
    ]

    def loss_of(net, x, y):
        error = y - net(x)[..., -1]
        level = torch.tensor([0.1, 0.5, 0.9]).to(x)
        return torch.maximum(level * error, (level - 1) * error).mean()

    return Example(nn.Sequential(*layers, nn.Conv1d(4, 3, 1)), (torch.randn(3, 2, 7), torch.randn(3, 1)), loss_of)


@architecture("DeepAR", "negative binomial likelihood of counts")
def deepar():
    """Salinas et al., 2020."""

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 2)

    def loss_of(net, counts):
        h = net.out(net.rnn(counts[:, :-1, None])[0])
        mean, shape = F.softplus(h).unbind(-1)
        r, y = 1 / shape, counts[:, 1:]
        log_p = (
            torch.lgamma(y + r)
            - torch.lgamma(r)
            - torch.lgamma(y + 1)
            + r * torch.log(1 / (1 + shape * mean))
            + y * torch.log(shape * mean / (1 + shape * mean))
        )
        return -log_p.mean()

    return Example(Counts(), (torch.randint(6, (2, 6)).float(),), loss_of)


@architecture("PatchTST", "past and future values")
def patch_tst():
    """Nie et al., 2023."""
    model = tiny(
        "patchtst",
        "PatchTSTForPrediction",
        num_input_channels=2,
        context_length=8,
        prediction_length=4,
        patch_length=2,
        patch_stride=2,
        d_model=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=12,
        loss="mse",
    )
    return Example(model, {"past_values": torch.randn(2, 8, 2), "future_values": torch.randn(2, 4, 2)})


@architecture("Time series transformer", "Student's t likelihood, time features, observed mask")
def time_series_transformer():
    """A probabilistic forecaster of Hugging Face: its loss is a torch.distributions log_prob."""
    model = tiny(
        *("time_series_transformer", "TimeSeriesTransformerForPrediction"),
        prediction_length=3,
        context_length=4,
        lags_sequence=[1, 2],
        num_time_features=1,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
    )
    batch = {
        "past_values": torch.randn(2, 6),
        "past_time_features": torch.randn(2, 6, 1),
        "past_observed_mask": torch.ones(2, 6),
        "future_values": torch.randn(2, 3),
        "future_time_features": torch.randn(2, 3, 1),
    }
    return Example(model, batch)
