"""Autoencoders: denoising, variational, quantised."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, noise_like, of_field
from tests.models.layers import mlp

architecture = of_field("Generative")


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
