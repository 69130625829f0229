"""Self-supervision of images: students, teachers, contrasts."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field

architecture = of_field("Vision")


class Encoder(nn.Module):
    """A small convolutional encoder with a projection."""

    def __init__(self, out: int = 5):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(36, out))

    def forward(self, x):
        return self.net(x)


class Taught(nn.Module):
    """A student, a predictor and a teacher that is not trained: a moving average of the student."""

    def __init__(self):
        super().__init__()
        self.student, self.predictor = Encoder(), nn.Linear(5, 5)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.randn(5))


def two_views() -> tuple[torch.Tensor, torch.Tensor]:
    """An image batch and a disturbed one."""
    x = torch.randn(4, 3, 8, 8)
    return x, x + 0.3 * torch.randn_like(x)


@architecture("DINO", "two views, a centred teacher without gradient")
def dino():
    """Caron et al., 2021."""

    def loss_of(net, a, b):
        with torch.no_grad():
            targets = [F.softmax((net.teacher(x) - net.centre) / 0.04, -1) for x in (a, b)]
        logits = [F.log_softmax(net.student(x) / 0.1, -1) for x in (b, a)]
        return -sum((t * s).sum(-1).mean() for t, s in zip(targets, logits, strict=True)) / 2

    return Example(Taught(), two_views(), loss_of)


@architecture("BYOL", "two views, a teacher without gradient")
def byol():
    """Grill et al., 2020."""

    def loss_of(net, a, b):
        with torch.no_grad():
            targets = net.teacher(b), net.teacher(a)
        return sum(
            2 - 2 * F.cosine_similarity(net.predictor(net.student(x)), t).mean()
            for x, t in zip((a, b), targets, strict=True)
        )

    return Example(Taught(), two_views(), loss_of)


@architecture("SimSiam", "two views, stopped gradients")
def simsiam():
    """Chen & He, 2021."""

    def loss_of(net, a, b):
        za, zb = net.student(a), net.student(b)
        return (
            -(
                F.cosine_similarity(net.predictor(za), zb.detach())
                + F.cosine_similarity(net.predictor(zb), za.detach())
            ).mean()
            / 2
        )

    return Example(Taught(), two_views(), loss_of)


@architecture("SimCLR", "normalised temperature-scaled cross entropy")
def simclr():
    """Chen et al., 2020."""

    def loss_of(net, a, b):
        z = F.normalize(torch.cat([net(a), net(b)]), dim=1)
        n = len(a)
        logits = (z @ z.T / 0.5).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
        return F.cross_entropy(logits, (torch.arange(2 * n) + n) % (2 * n))

    return Example(Encoder(), two_views(), loss_of)


@architecture("MoCo", "a queue of negatives")
def moco():
    """He et al., 2020."""

    def loss_of(net, a, b, queue):
        q = F.normalize(net.student(a), dim=1)
        with torch.no_grad():
            k = F.normalize(net.teacher(b), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue], 1) / 0.2
        return F.cross_entropy(logits, torch.zeros(len(a), dtype=torch.long))

    return Example(Taught(), (*two_views(), F.normalize(torch.randn(5, 7), dim=0)), loss_of)


@architecture("Barlow Twins", "cross-correlation")
def barlow_twins():
    """Zbontar et al., 2021."""

    def loss_of(net, a, b):
        za, zb = (F.batch_norm(net(x), None, None, training=True) for x in (a, b))
        off = za.T @ zb / len(a) - torch.eye(5).to(za)
        return off.diagonal().square().sum() + 0.01 * (off - torch.diag(off.diagonal())).square().sum()

    return Example(Encoder(), two_views(), loss_of)


@architecture("VICReg", "variance, invariance, covariance")
def vicreg():
    """Bardes et al., 2022."""

    def loss_of(net, a, b):
        za, zb = net(a), net(b)
        spread = sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (za, zb))
        covariances = (torch.cov(z.T) for z in (za, zb))
        mixed = sum((c.square().sum() - c.diagonal().square().sum()) / 5 for c in covariances)
        return 25 * F.mse_loss(za, zb) + 25 * spread + mixed

    return Example(Encoder(), two_views(), loss_of)
