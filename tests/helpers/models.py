"""Real models as cases: what the first promise is shown on. Each is seeded; float64; a few hundred parameters."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.helpers.cases import Case, SelfAttention, Tied, _next_token, line, mlp, normed

ACTIVATIONS = {
    cls.__name__: cls
    for cls in (
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign),
        *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.Tanhshrink),
        *(nn.Softshrink, nn.Hardshrink, nn.PReLU),
    )
}


def regression(make: Callable[[], nn.Module], *shape: int, train: bool = True) -> Callable[[], Case]:
    """The mean squared error of a module's output against noise, on a batch of 4."""

    def case() -> Case:
        torch.manual_seed(0)
        module = make().double().train(train)
        x = torch.randn(4, *shape).double()
        with torch.no_grad():
            y = torch.randn_like(module(x))
        return line(module, nn.MSELoss(), x, y)

    return case


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm_a, self.norm_b, self.head = nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Linear(2, 2)

    def forward(self, x):
        x = x + self.norm_b(self.b(torch.tanh(self.norm_a(self.a(x)))))
        return self.head(x.mean((2, 3)))


class Last(nn.Module):
    """The last output of a recurrent net."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self, padding):
        super().__init__()
        self.attention, self.padding = nn.MultiheadAttention(4, 2, batch_first=True), padding

    def forward(self, x):
        mask = torch.arange(x.shape[1]).expand(x.shape[:2]) >= 3 if self.padding else None
        return self.attention(x, x, x, key_padding_mask=mask)[0]


class GatedUnit(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(3, 8), nn.Linear(4, 2)

    def forward(self, x):
        return self.down(F.glu(self.up(x)))


def convolutional(pool):
    return lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Softplus(), pool(), nn.Conv2d(3, 2, 1, groups=1), nn.Flatten(), nn.Linear(8, 2)
    )


def language(make):
    def case():
        torch.manual_seed(0)
        return line(make(), _next_token, torch.randint(7, (2, 5)), torch.randint(7, (2, 5)))

    return case


class WeightNormed(nn.Module):
    """``parametrizations.weight_norm`` on a linear layer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x):
        return self.net(x)


class WeightNormedInPrimitives(nn.Module):
    """The same net and parameters, its weight v·g/‖v‖ written out: the truth of ``WeightNormed``."""

    def __init__(self):
        super().__init__()
        self.net = WeightNormed().net

    def forward(self, x):
        first, _, last = self.net
        g, v = first.parametrizations.weight.original0, first.parametrizations.weight.original1
        return last(torch.tanh(F.linear(x, v * (g / v.square().sum(1, keepdim=True).sqrt()), first.bias)))


MODELS: dict[str, Callable[[], Case]] = {
    **{
        f"MLP, {name}": regression(lambda cls=cls: mlp([3, 4, 4, 2], lambda: cls()), 3)
        for name, cls in ACTIVATIONS.items()
    },
    "MLP, GLU": regression(GatedUnit, 3),
    "conv net, max pooling": regression(convolutional(lambda: nn.MaxPool2d(2)), 2, 6, 6),
    "conv net, average pooling": regression(convolutional(lambda: nn.AvgPool2d(2)), 2, 6, 6),
    "conv net, adaptive pooling": regression(convolutional(lambda: nn.AdaptiveAvgPool2d(2)), 2, 6, 6),
    "transposed convolution": regression(lambda: nn.ConvTranspose2d(2, 2, 3, stride=2), 2, 3, 3),
    "BatchNorm, train": regression(normed(lambda: nn.BatchNorm1d(6)), 3),
    "BatchNorm, eval": regression(normed(lambda: nn.BatchNorm1d(6)), 3, train=False),
    "LayerNorm": regression(normed(lambda: nn.LayerNorm(6)), 3),
    "GroupNorm": regression(normed(lambda: nn.GroupNorm(2, 6)), 3),
    "InstanceNorm": regression(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.Tanh()), 2, 6, 6
    ),
    "RMSNorm": regression(normed(lambda: nn.RMSNorm(6)), 3),
    "weight_norm": regression(WeightNormed, 3),
    "spectral_norm, train": regression(lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), 3),
    "spectral_norm, eval": regression(lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), 3, train=False),
    "residual net": regression(Residual, 2, 4, 4),
    "RNN": regression(lambda: Last(nn.RNN(2, 3, batch_first=True)), 4, 2),
    "LSTM": regression(lambda: Last(nn.LSTM(2, 3, num_layers=2, batch_first=True)), 4, 2),
    "GRU": regression(lambda: Last(nn.GRU(2, 3, batch_first=True, bidirectional=False)), 4, 2),
    "MultiheadAttention": regression(lambda: Attention(False), 4, 4),
    "MultiheadAttention, key padding": regression(lambda: Attention(True), 4, 4),
    "TransformerEncoderLayer, train": regression(
        lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), 3, 4
    ),
    "TransformerEncoderLayer, eval": regression(
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 3, 4, train=False
    ),
    "scaled_dot_product_attention, causal": regression(lambda: SelfAttention(4), 3, 4),
    "embedding, tied head": language(Tied),
    "embedding, padding row": language(lambda: nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Linear(3, 7))),
    "Dropout": regression(normed(lambda: nn.Dropout(0.5)), 3),
    "Dropout2d": regression(convolutional(lambda: nn.Sequential(nn.Dropout2d(0.3), nn.MaxPool2d(2))), 2, 6, 6),
}

# F.name: how targets are made of outputs of shape (6, 3)
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "smooth_l1_loss": F.smooth_l1_loss,
    "huber_loss": F.huber_loss,
    "cross_entropy": lambda out, y: F.cross_entropy(out, y.argmax(-1)),
    "cross_entropy, label smoothing and weights": lambda out, y: F.cross_entropy(
        out, y.argmax(-1), weight=torch.arange(1, 4).to(out), label_smoothing=0.1
    ),
    "cross_entropy, probabilities": lambda out, y: F.cross_entropy(out, y.softmax(-1)),
    "nll_loss": lambda out, y: F.nll_loss(out.log_softmax(-1), y.argmax(-1)),
    "binary_cross_entropy": lambda out, y: F.binary_cross_entropy(out.sigmoid(), y.sigmoid()),
    "binary_cross_entropy_with_logits": lambda out, y: F.binary_cross_entropy_with_logits(out, y.sigmoid()),
    "kl_div": lambda out, y: F.kl_div(out.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
    "poisson_nll_loss": lambda out, y: F.poisson_nll_loss(out, y.abs()),
    "gaussian_nll_loss": lambda out, y: F.gaussian_nll_loss(out, y, out.exp()),
    "soft_margin_loss": lambda out, y: F.soft_margin_loss(out, y.sign()),
    "multi_margin_loss": lambda out, y: F.multi_margin_loss(out, y.argmax(-1)),
    "multilabel_margin_loss": lambda out, y: F.multilabel_margin_loss(out, y.argsort(-1)),
    "multilabel_margin_loss, few labels": lambda out, y: F.multilabel_margin_loss(
        out, torch.tensor([[1, -1, 0], [-1, 2, 2], [2, 0, -1]]).repeat(2, 1)
    ),
    "multilabel_soft_margin_loss": lambda out, y: F.multilabel_soft_margin_loss(out, (y > 0).to(y)),
    "hinge_embedding_loss": lambda out, y: F.hinge_embedding_loss(out, y.sign()),
    "margin_ranking_loss": lambda out, y: F.margin_ranking_loss(out[:3], out[3:], y[:3].sign()),
    "cosine_embedding_loss": lambda out, y: F.cosine_embedding_loss(out, y, y[:, 0].sign()),
    "triplet_margin_loss": lambda out, y: F.triplet_margin_loss(out[:2], out[2:4], y[:2]),
    "ctc_loss": lambda out, y: F.ctc_loss(
        out[:, None].log_softmax(-1), torch.ones(1, 2, dtype=torch.long), torch.tensor([6]), torch.tensor([2])
    ),
}


def with_loss(name: str) -> Case:
    """A small net under a loss of torch.nn.functional."""
    torch.manual_seed(1)
    return line(mlp([3, 4, 3]), LOSSES[name], torch.randn(6, 3), torch.randn(6, 3))


class HardsigmoidInPrimitives(nn.Module):
    """ReLU6(x + 3)/6. PyTorch's own gradient of ``hardsigmoid`` has 1/6 in float32, and no derivative."""

    def forward(self, x):
        return (x + 3).clamp(0, 6) / 6


# The same nets, parameters and batches written otherwise: the truth where PyTorch's own derivatives are not.
IN_PRIMITIVES: dict[str, Callable[[], Case]] = {
    "weight_norm": regression(WeightNormedInPrimitives, 3),
    "MLP, Hardsigmoid": regression(lambda: mlp([3, 4, 4, 2], HardsigmoidInPrimitives), 3),
}
