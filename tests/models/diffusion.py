"""Diffusion, score matching, pixels and energies."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, noise_like, of_field
from tests.models.layers import mlp

architecture = of_field("Generative")


class TimeNet(nn.Module):
    """A net of a point and a time, told by sines."""

    def __init__(self, width=4):
        super().__init__()
        self.net = mlp(width + 4, 8, width)

    def forward(self, x, t):
        angles = t[:, None] * torch.tensor([1.0, 10.0]).to(x)
        return self.net(torch.cat([x, angles.sin(), angles.cos()], 1))


@architecture("Diffusion, DDPM", "noise prediction")
def ddpm():
    """Ho et al., 2020."""

    def loss_of(net, x, t):
        e = noise_like(x)
        kept = torch.cos(t * math.pi / 2)[:, None]
        return F.mse_loss(net(kept * x + (1 - kept**2).sqrt() * e, t), e)

    return Example(TimeNet(), (torch.randn(4, 4), torch.rand(4) * 0.8 + 0.1), loss_of)


@architecture("Diffusion U-Net", "noise prediction, group norm, attention, time embedding")
def diffusion_unet():
    """Ho et al., 2020; Nichol & Dhariwal, 2021."""

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.time, self.into = mlp(4, 8, 4), nn.Conv2d(1, 4, 3, padding=1)
            self.block = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 4, 3, padding=1))
            self.down, self.up = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
            self.norm, self.attention, self.out = (
                nn.GroupNorm(2, 4),
                nn.MultiheadAttention(4, 2, batch_first=True),
                nn.Conv2d(8, 1, 3, padding=1),
            )

        def forward(self, x, t):
            angles = t[:, None] * torch.tensor([1.0, 10.0]).to(x)
            h = self.into(x) + self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None]
            skip = h + self.block(h)
            h = self.down(skip)
            tokens = self.norm(h).flatten(2).transpose(1, 2)
            h = h + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(h.shape)
            return self.out(torch.cat([skip, self.up(F.interpolate(h, scale_factor=2, mode="nearest"))], 1))

    def loss_of(net, x, t):
        e = noise_like(x)
        return F.mse_loss(net(0.8 * x + 0.6 * e, t), e)

    return Example(UNet(), (torch.randn(2, 1, 6, 6), torch.rand(2)), loss_of)


@architecture("Diffusion transformer", "noise prediction, adaptive norms")
def diffusion_transformer():
    """Peebles & Xie, 2023."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = (
                nn.LayerNorm(6, elementwise_affine=False),
                nn.MultiheadAttention(6, 2, batch_first=True),
            )
            self.net, self.condition, self.label = (
                mlp(6, 10, 6),
                nn.Sequential(nn.SiLU(), nn.Linear(6, 24)),
                nn.Embedding(3, 6),
            )

        def forward(self, x, y):
            shift, scale, gate, gate2 = self.condition(self.label(y))[:, None].chunk(4, 2)
            h = self.norm(x) * (1 + scale) + shift
            x = x + gate * self.attention(h, h, h, need_weights=False)[0]
            return x + gate2 * self.net(self.norm(x))

    def loss_of(net, x, y):
        e = noise_like(x)
        return F.mse_loss(net(0.8 * x + 0.6 * e, y), e)

    return Example(Block(), (torch.randn(2, 4, 6), torch.randint(3, (2,))), loss_of)


@architecture("Denoising score matching", "noise levels drawn at random")
def score_matching():
    """Song & Ermon, 2019."""

    def loss_of(net, x, sigma):
        e = noise_like(x)
        return (sigma[:, None] * net(x + sigma[:, None] * e, sigma) + e).square().sum(1).mean() / 2

    return Example(TimeNet(), (torch.randn(4, 4), torch.rand(4) + 0.1), loss_of)


@architecture("Sliced score matching", "vᵀ∇s·v by torch.func.jvp")
def sliced():
    """Song et al., 2019."""

    def loss_of(net, x, v):
        score, turned = torch.func.jvp(net, (x,), (v,))
        return ((turned * v).sum(1) + (score * v).sum(1).square() / 2).mean()

    return Example(mlp(3, 6, 3, act=nn.Softplus), (torch.randn(4, 3), torch.randn(4, 3).sign()), loss_of)


@architecture("Flow matching", "velocities of straight lines")
def flow_matching():
    """Lipman et al., 2023."""

    def loss_of(net, x, t):
        e = noise_like(x)
        return F.mse_loss(net(t[:, None] * x + (1 - t[:, None]) * e, t), x - e)

    return Example(TimeNet(), (torch.randn(4, 4), torch.rand(4)), loss_of)


@architecture("PixelCNN", "cross entropy of masked convolutions")
def pixel_cnn():
    """van den Oord et al., 2016."""

    class Masked(nn.Conv2d):
        def __init__(self, i, o, own):
            super().__init__(i, o, 3, padding=1)
            mask = torch.ones(3, 3)
            mask[1, 1 + own :], mask[2] = 0, 0
            self.register_buffer("mask", mask)

        def forward(self, x):
            return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)

    net = nn.Sequential(Masked(1, 4, False), nn.ReLU(), Masked(4, 4, True), nn.ReLU(), nn.Conv2d(4, 3, 1))
    batch = torch.randint(3, (2, 5, 5))
    return Example(net, (batch,), lambda net, y: F.cross_entropy(net(y[:, None].to(net[4].weight)), y))


@architecture("Energy-based model", "contrastive divergence, Langevin samples without gradient")
def energy():
    """Du & Mordatch, 2019: the chain is run by autograd.grad inside the loss and detached."""

    def loss_of(net, x):
        y = noise_like(x)
        for _ in range(3):
            y = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(net(y).sum(), y)
            y = y - 0.1 * slope
        real, false = net(x), net(y.detach())
        return (real - false + 0.1 * (real.square() + false.square())).mean()

    return Example(mlp(3, 6, 1), (torch.randn(4, 3),), loss_of)
