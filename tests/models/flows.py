"""Normalising flows."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.layers import mlp

architecture = of_field("Generative")


def likely(flow: nn.Module, width: int = 4) -> Example:
    """−log p of a flow that returns latents and log-determinants."""

    def loss_of(net, x):
        z, log_det = net(x)
        return (z.square().sum(1) / 2 - log_det).mean()

    return Example(flow, (torch.randn(5, width),), loss_of)


@architecture("RealNVP", "negative log-likelihood")
def real_nvp():
    """Dinh et al., 2017: affine couplings."""

    class Couplings(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets = nn.ModuleList(mlp(2, 5, 4) for _ in range(3))

        def forward(self, x):
            (a, b), log_det = x.chunk(2, 1), 0
            for net in self.nets:
                shift, scale = net(a).chunk(2, 1)
                scale = torch.tanh(scale)
                a, b, log_det = b * scale.exp() + shift, a, log_det + scale.sum(1)
            return torch.cat([a, b], 1), log_det

    return likely(Couplings())


@architecture("Glow", "negative log-likelihood, slogdet of 1×1 convolutions")
def glow():
    """Kingma & Dhariwal, 2018."""

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.zeros(4, 1, 1)), nn.Parameter(torch.zeros(4, 1, 1))
            self.mix = nn.Parameter(torch.linalg.qr(torch.randn(4, 4))[0])
            self.net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ELU(), nn.Conv2d(4, 4, 3, padding=1))

        def forward(self, x):
            pixels = x.shape[2] * x.shape[3]
            x = F.conv2d((x + self.shift) * self.scale.exp(), self.mix[:, :, None, None])
            a, b = x.chunk(2, 1)
            shift, scale = self.net(a).chunk(2, 1)
            scale = torch.sigmoid(scale + 2)
            log_det = pixels * (self.scale.sum() + torch.linalg.slogdet(self.mix)[1]) + scale.log().sum((1, 2, 3))
            return torch.cat([a, (b + shift) * scale], 1).flatten(1), log_det

    example = likely(Step())
    return example._replace(batch=(torch.randn(3, 4, 3, 3),))


@architecture("Masked autoregressive flow", "negative log-likelihood")
def maf():
    """Papamakarios et al., 2017: MADE."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 8)
            degrees = torch.arange(8) % 3
            self.register_buffer("into", (degrees[:, None] >= torch.arange(4)).float())
            self.register_buffer("out", (torch.arange(4).repeat(2)[:, None] > degrees).float())

        def forward(self, x):
            h = F.relu(F.linear(x, self.first.weight * self.into, self.first.bias))
            shift, log_scale = F.linear(h, self.last.weight * self.out, self.last.bias).chunk(2, 1)
            return (x - shift) * torch.exp(-log_scale), -log_scale.sum(1)

    return likely(Masked())


@architecture("Neural spline flow", "negative log-likelihood, rational quadratics")
def spline_flow():
    """Durkan et al., 2019: bins by searchsorted."""

    class Spline(nn.Module):
        def __init__(self, bins=4):
            super().__init__()
            self.widths, self.heights, self.slopes = (
                nn.Parameter(torch.randn(bins)),
                nn.Parameter(torch.randn(bins)),
                nn.Parameter(torch.randn(bins + 1)),
            )
            self.matrix = nn.Linear(4, 4)

        def forward(self, x):
            u = torch.sigmoid(self.matrix(x))
            left, bottom = (F.pad(p.softmax(0).cumsum(0), (1, 0)) for p in (self.widths, self.heights))
            slopes = F.softplus(self.slopes) + 1e-3
            i = (torch.searchsorted(left.detach(), u.detach(), right=True) - 1).clamp(0, 3)
            w, h = left[i + 1] - left[i], bottom[i + 1] - bottom[i]
            s, t = h / w, (u - left[i]) / w
            d0, d1 = slopes[i], slopes[i + 1]
            below = s + (d1 + d0 - 2 * s) * t * (1 - t)
            z = bottom[i] + h * (s * t**2 + d0 * t * (1 - t)) / below
            slope = s**2 * (d1 * t**2 + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2) / below**2
            return z, (slope.log() + F.logsigmoid(self.matrix(x)) + F.logsigmoid(-self.matrix(x))).sum(1)

    return likely(Spline())


@architecture("Planar flow", "reverse Kullback-Leibler divergence")
def planar():
    """Rezende & Mohamed, 2015."""

    class Planar(nn.Module):
        def __init__(self):
            super().__init__()
            self.u, self.w, self.b = (
                nn.Parameter(torch.randn(3, 2)),
                nn.Parameter(torch.randn(3, 2)),
                nn.Parameter(torch.randn(3)),
            )

        def forward(self, z):
            log_det = 0
            for u, w, b in zip(self.u, self.w, self.b, strict=True):
                u = u + (F.softplus(w @ u) - 1 - w @ u) * w / (w @ w)
                h = torch.tanh(z @ w + b)
                log_det = log_det + torch.log(torch.abs(1 + (1 - h**2) * (w @ u)) + 1e-6)
                z = z + h[:, None] * u
            return z, log_det

    return likely(Planar(), 2)


@architecture("FFJORD", "negative log-likelihood, the trace by functional derivatives")
def ffjord():
    """Grathwohl et al., 2019: Hutchinson's trace by torch.func.vjp, four Euler steps."""

    def loss_of(net, x, e):
        log_det = 0
        for _ in range(4):
            speed, pull = torch.func.vjp(net, x)
            log_det = log_det + 0.25 * (pull(e)[0] * e).sum(1)
            x = x + 0.25 * speed
        return (x.square().sum(1) / 2 - log_det).mean()

    return Example(mlp(3, 6, 3, act=nn.Tanh), (torch.randn(4, 3), torch.randn(4, 3).sign()), loss_of)
