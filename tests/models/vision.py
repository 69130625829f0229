"""Segmentation, detection, rendering and points, written by hand after the papers that named them."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.convolutional import Concatenated, classified, convolution, head

architecture = of_field("Vision")


@architecture("MLP-Mixer", "classifier")
def mixer():
    """Tolstikhin et al., 2021."""

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 4, 4)
            self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(3))
            self.tokens = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4))
            self.channels = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            x = self.stem(x).flatten(2).transpose(1, 2)
            x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels(self.norms[1](x))
            return self.head(self.norms[2](x).mean(1))

    return classified(Mixing())


@architecture("U-Net", "per-pixel cross entropy, train mode")
def unet():
    """Ronneberger et al., 2015."""

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.bottom, self.out = convolution(1, 3), convolution(3, 4), nn.Conv2d(6, 2, 1)
            self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)

        def forward(self, x):
            skip = self.down(x)
            return self.out(torch.cat([skip, self.up(self.bottom(F.max_pool2d(skip, 2)))], 1))

    return Example(
        UNet(), (torch.randn(2, 1, 6, 6), torch.randint(2, (2, 6, 6))), lambda net, x, y: F.cross_entropy(net(x), y)
    )


@architecture("DeepLab, atrous", "per-pixel cross entropy, ignored pixels")
def deeplab():
    """Chen et al., 2017: dilated convolutions, upsampled logits."""
    rates = [nn.Conv2d(4, 2, 3, padding=r, dilation=r) for r in (1, 2)]
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.ReLU(),
        Concatenated(*rates),
        nn.ReLU(),
        nn.Conv2d(4, 3, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )
    y = torch.randint(3, (2, 8, 8))
    y[:, :2] = 255
    return Example(net, (torch.randn(2, 3, 8, 8), y), lambda net, x, y: F.cross_entropy(net(x), y, ignore_index=255))


@architecture("RetinaNet", "focal loss and smooth L1 on a feature pyramid")
def retinanet():
    """Lin et al., 2017."""

    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.c3, self.c4 = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
            self.p3, self.p4 = nn.Conv2d(4, 4, 1), nn.Conv2d(6, 4, 1)
            self.classes, self.boxes = nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            c3 = F.relu(self.c3(x))
            p4 = self.p4(F.relu(self.c4(c3)))
            levels = self.p3(c3) + F.interpolate(p4, scale_factor=2), p4
            return [torch.cat([h(p).flatten(2) for p in levels], 2).transpose(1, 2) for h in (self.classes, self.boxes)]

    def loss_of(net, x, labels, boxes):
        logits, deltas = net(x)
        p, cross = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        right = p * labels + (1 - p) * (1 - labels)
        return (0.25 * (1 - right) ** 2 * cross).sum() / 4 + F.smooth_l1_loss(deltas, boxes, beta=0.1)

    return Example(
        Pyramid(), (torch.randn(2, 3, 8, 8), (torch.rand(2, 20, 2) < 0.2).float(), torch.randn(2, 20, 4)), loss_of
    )


@architecture("YOLO", "objectness, classes and generalised IoU")
def yolo():
    """Redmon et al., 2016; Rezatofighi et al., 2019."""

    def area(box):
        return (box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)

    def loss_of(net, x, boxes, classes):
        out = net(x).permute(0, 2, 3, 1)
        centre, size = out[..., :2].sigmoid(), out[..., 2:4].exp()
        got = torch.cat([centre - size / 2, centre + size / 2], -1)
        inner = area(
            torch.cat([torch.maximum(got[..., :2], boxes[..., :2]), torch.minimum(got[..., 2:], boxes[..., 2:])], -1)
        )
        hull = area(
            torch.cat([torch.minimum(got[..., :2], boxes[..., :2]), torch.maximum(got[..., 2:], boxes[..., 2:])], -1)
        )
        union = area(got) + area(boxes) - inner
        giou = inner / union - (hull - union) / hull
        objects = F.binary_cross_entropy_with_logits(out[..., 4], inner.detach() / union.detach())
        return (1 - giou).mean() + objects + F.cross_entropy(out[..., 5:].flatten(0, 2), classes.flatten())

    corner = torch.rand(2, 2, 2, 2)
    boxes = torch.cat([corner - 0.5, corner + 0.5], -1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(4, 8, 3, 2, 1))
    return Example(net, (torch.randn(2, 3, 8, 8), boxes, torch.randint(3, (2, 2, 2))), loss_of)


@architecture("DETR, matched beforehand", "set loss, the matching given with the batch")
def detr():
    """Carion et al., 2020. The Hungarian matching is of constants: it is no part of what is differentiated."""

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.queries = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(3, 8))
            self.transformer = nn.Transformer(8, 2, 1, 1, 12, dropout=0.1, batch_first=True)
            self.classes, self.boxes = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            tokens = self.backbone(x).flatten(2).transpose(1, 2)
            h = self.transformer(tokens, self.queries.expand(len(x), -1, -1))
            return self.classes(h), self.boxes(h).sigmoid()

    def loss_of(net, x, matched, classes, boxes):
        logits, got = net(x)
        got = got.gather(1, matched[..., None].expand(-1, -1, 4))
        target = torch.full(logits.shape[:2], 3).scatter(1, matched, classes)
        return F.cross_entropy(
            logits.transpose(1, 2), target, weight=torch.tensor([1, 1, 1, 0.1]).to(logits)
        ) + 5 * F.l1_loss(got, boxes)

    matched = torch.stack([torch.randperm(3)[:2] for _ in range(2)])
    return Example(
        Detector(), (torch.randn(2, 3, 8, 8), matched, torch.randint(3, (2, 2)), torch.rand(2, 2, 4)), loss_of
    )


@architecture("Spatial transformer", "classifier")
def spatial_transformer():
    """Jaderberg et al., 2015: the input resampled where a net says."""

    class Warped(nn.Module):
        def __init__(self):
            super().__init__()
            self.where = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
            self.net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.SiLU(), *head(3))

        def forward(self, x):
            theta = 0.1 * self.where(x).view(-1, 2, 3) + torch.eye(2, 3).to(x)
            return self.net(F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False))

    return classified(Warped(), channels=1)


@architecture("Super-resolution, ESPCN", "mean squared error, pixel shuffle")
def espcn():
    """Shi et al., 2016."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2))
    return Example(net, (torch.randn(2, 1, 4, 4), torch.randn(2, 1, 8, 8)), lambda net, x, y: F.mse_loss(net(x), y))


@architecture("Capsules, dynamic routing", "margin loss")
def capsules():
    """Sabour et al., 2017."""

    def squash(s):
        square = s.square().sum(-1, keepdim=True)
        return square / (1 + square) * s / (square + 1e-6).sqrt()

    class Capsules(nn.Module):
        def __init__(self):
            super().__init__()
            self.primary, self.votes = nn.Conv2d(1, 8, 3, 2), nn.Parameter(0.1 * torch.randn(18, 3, 5, 4))

        def forward(self, x):
            u = squash(self.primary(x).unflatten(1, (2, 4)).movedim(2, -1).flatten(1, 3))
            u = torch.einsum("bic,ijdc->bijd", u, self.votes)
            logits = torch.zeros(u.shape[:3]).to(u)
            for _ in range(2):
                v = squash((logits.softmax(-1)[..., None] * u).sum(1))
                logits = logits + (u * v[:, None]).sum(-1)
            return v.square().sum(-1).add(1e-6).sqrt()

    def loss_of(net, x, y):
        length, true = net(x), F.one_hot(y, 3)
        return (true * F.relu(0.9 - length) ** 2 + 0.5 * (1 - true) * F.relu(length - 0.1) ** 2).sum(1).mean()

    return Example(Capsules(), (torch.randn(2, 1, 8, 8), torch.randint(3, (2,))), loss_of)


@architecture("NeRF", "mean squared error of rendered rays")
def nerf():
    """Mildenhall et al., 2020: positional encoding, volume rendering."""

    def loss_of(net, points, steps, colours):
        bands = 2.0 ** torch.arange(2).to(points)
        encoded = torch.cat([f(points[..., None] * bands).flatten(-2) for f in (torch.sin, torch.cos)], -1)
        out = net(encoded)
        alpha = 1 - torch.exp(-F.softplus(out[..., 3]) * steps)
        through = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1] + 1e-10], 1), 1)
        return F.mse_loss(((through * alpha)[..., None] * out[..., :3].sigmoid()).sum(1), colours)

    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    return Example(net, (torch.randn(4, 5, 3), torch.rand(4, 5), torch.rand(4, 3)), loss_of)


@architecture("PointNet", "classifier of point clouds, train mode")
def pointnet():
    """Qi et al., 2017."""

    class Points(nn.Module):
        def __init__(self):
            super().__init__()
            self.each = nn.Sequential(nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 8, 1))
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.each(x).amax(2))

    return Example(
        Points(), (torch.randn(3, 3, 7), torch.randint(3, (3,))), lambda net, x, y: F.cross_entropy(net(x), y)
    )
