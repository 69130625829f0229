"""Adversaries: generators and their critics."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field

architecture = of_field("Generative")


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
