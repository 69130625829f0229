"""Autoencoders, adversaries, flows, diffusion and energies."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, noise_like, of_field

architecture = of_field("Generative")


def mlp(*sizes: int, act: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Linear layers with a nonlinearity between."""
    layers = [layer for i, o in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(i, o), act())]
    return nn.Sequential(*layers[:-1])


class Coded(nn.Module):
    """An encoder and a decoder."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


@architecture("Denoising autoencoder", "mean squared error, noise in the loss")
def denoising():
    """Vincent et al., 2008."""

    def loss_of(net, x):
        return F.mse_loss(net.decoder(torch.tanh(net.encoder(x + 0.3 * noise_like(x)))), x)

    return Example(Coded(nn.Linear(6, 3), nn.Linear(3, 6)), (torch.randn(4, 6),), loss_of)


@architecture("VAE", "evidence lower bound, one draw")
def vae():
    """Kingma & Welling, 2014."""

    def loss_of(net, x):
        mean, log_var = net.encoder(x).chunk(2, 1)
        z = mean + (log_var / 2).exp() * noise_like(mean)
        kl = (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean() / 2
        return F.binary_cross_entropy_with_logits(net.decoder(z), x, reduction="none").sum(1).mean() + kl

    return Example(Coded(mlp(6, 5, 4), mlp(2, 5, 6)), (torch.rand(4, 6).round(),), loss_of)


@architecture("VAE by torch.distributions", "evidence lower bound, validated arguments")
def vae_by_distributions():
    """The same as it is often written: Normal, kl_divergence, Bernoulli.log_prob."""
    from torch.distributions import Bernoulli, Normal, kl_divergence

    def loss_of(net, x):
        mean, log_scale = net.encoder(x).chunk(2, 1)
        posterior = Normal(mean, log_scale.exp())
        z = posterior.mean + posterior.stddev * noise_like(mean)
        kl = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1).mean()
        return kl - Bernoulli(logits=net.decoder(z)).log_prob(x).sum(1).mean()

    return Example(Coded(mlp(6, 5, 4), mlp(2, 5, 6)), (torch.rand(4, 6).round(),), loss_of)


@architecture("Convolutional VAE", "Gaussian likelihood, learned variance")
def convolutional_vae():
    """Convolutions down, transposed convolutions up."""

    def loss_of(net, x, log_var):
        mean, log_scale = net.encoder(x).chunk(2, 1)
        z = mean + log_scale.exp() * noise_like(mean)
        kl = (mean.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1).mean() / 2
        return F.gaussian_nll_loss(net.decoder(z), x, log_var.exp().expand_as(x)) + kl

    encoder = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ELU(), nn.Flatten(), nn.Linear(27, 4))
    decoder = nn.Sequential(nn.Linear(2, 27), nn.Unflatten(1, (3, 3, 3)), nn.ELU(), nn.ConvTranspose2d(3, 1, 4, 2, 1))
    return Example(Coded(encoder, decoder), (torch.randn(3, 1, 6, 6), torch.randn(1)), loss_of)


@architecture("Importance-weighted autoencoder", "a bound of 5 draws")
def iwae():
    """Burda et al., 2016."""

    def loss_of(net, x):
        mean, log_scale = (t.expand(5, -1, -1) for t in net.encoder(x).chunk(2, 1))
        e = noise_like(mean)
        z = mean + log_scale.exp() * e
        log_weight = (e.square() / 2 - z.square() / 2 + log_scale).sum(2) - F.mse_loss(
            net.decoder(z), x.expand(5, -1, -1), reduction="none"
        ).sum(2)
        return -(log_weight.logsumexp(0) - math.log(5)).mean()

    return Example(Coded(mlp(6, 5, 4), mlp(2, 5, 6)), (torch.randn(3, 6),), loss_of)


@architecture("VQ-VAE", "straight-through codes")
def vq_vae():
    """van den Oord et al., 2017."""

    class Quantised(Coded):
        def __init__(self):
            super().__init__(mlp(6, 5, 3), mlp(3, 5, 6))
            self.codes = nn.Embedding(4, 3)

    def loss_of(net, x):
        z = net.encoder(x)
        nearest = (z[:, None] - net.codes.weight).square().sum(-1).argmin(1)
        q = net.codes(nearest)
        out = net.decoder(z + (q - z).detach())
        return F.mse_loss(out, x) + F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())

    return Example(Quantised(), (torch.randn(4, 6),), loss_of)


@architecture("Gumbel-softmax autoencoder", "relaxed categorical codes")
def gumbel():
    """Jang et al., 2017."""

    def loss_of(net, x):
        logits = net.encoder(x).unflatten(1, (2, 3))
        u = torch.rand(logits.shape, dtype=torch.float64).to(logits).clamp(1e-6, 1 - 1e-6)
        return F.mse_loss(net.decoder(((logits - torch.log(-torch.log(u))) / 0.7).softmax(-1).flatten(1)), x)

    return Example(Coded(mlp(5, 6, 6), mlp(6, 6, 5)), (torch.randn(4, 5),), loss_of)


class Adversaries(nn.Module):
    """A generator and a critic, of which one is trained at a time."""

    def __init__(self, trained):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))
        self.critic = nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Linear(5, 1))
        for p in self.parameters():
            p.requires_grad_(False)
        getattr(self, trained).requires_grad_()


def played(trained, loss_of):
    """An example of one adversary's loss on real data and latent noise."""
    return Example(Adversaries(trained), (torch.randn(4, 4), torch.randn(4, 2)), loss_of)


@architecture("GAN, discriminator", "binary cross entropy")
def discriminator():
    """Goodfellow et al., 2014."""

    def loss_of(net, real, z):
        yes, no = torch.sigmoid(net.critic(real)), torch.sigmoid(net.critic(net.generator(z).detach()))
        return F.binary_cross_entropy(yes, torch.ones(4, 1).to(yes)) + F.binary_cross_entropy(
            no, torch.zeros(4, 1).to(no)
        )

    return played("critic", loss_of)


@architecture("GAN, generator", "non-saturating, train mode")
def generator():
    """Goodfellow et al., 2014."""
    return played("generator", lambda net, real, z: F.softplus(-net.critic(net.generator(z))).mean())


@architecture("Hinge GAN, spectral norm", "the critic's loss, train mode")
def spectral():
    """Miyato et al., 2018."""
    from torch.nn.utils.parametrizations import spectral_norm

    example = played(
        "critic",
        lambda net, real, z: F.relu(1 - net.critic(real)).mean() + F.relu(1 + net.critic(net.generator(z))).mean(),
    )
    spectral_norm(example.module.critic[0])
    return example


@architecture("WGAN-GP", "the critic's loss, autograd.grad inside")
def wgan_gp():
    """Gulrajani et al., 2017."""

    def loss_of(net, real, z):
        fake = net.generator(z).detach()
        between = (real + 0.3 * (fake - real)).requires_grad_()
        (slope,) = torch.autograd.grad(net.critic(between).sum(), between, create_graph=True)
        return net.critic(fake).mean() - net.critic(real).mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()

    return played("critic", loss_of)


@architecture("GAN with R1", "the critic's loss, autograd.grad inside")
def r1():
    """Mescheder et al., 2018."""

    def loss_of(net, real, z):
        real = real.detach().requires_grad_()
        scores = net.critic(real)
        (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
        return (
            F.softplus(-scores).mean()
            + F.softplus(net.critic(net.generator(z).detach())).mean()
            + slope.square().sum(1).mean()
        )

    return played("critic", loss_of)


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
