"""Tables and time series."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.hugging_face import tiny
from tests.models.layers import mlp
from tests.models.recommender import Categories, clicked

architecture = of_field("Recommender, tables, time series")


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


@architecture("Time series transformer", "Student's t likelihood, time features, observed mask, layerdrop=0")
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
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
    )
    batch = {
        "past_values": torch.randn(2, 6),
        "past_time_features": torch.randn(2, 6, 1),
        "past_observed_mask": torch.ones(2, 6),
        "future_values": torch.randn(2, 3),
        "future_time_features": torch.randn(2, 3, 1),
    }
    return Example(model, batch)
