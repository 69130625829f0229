"""Image classifiers by convolutions, small, after the papers that named them."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field

architecture = of_field("Vision")


def classified(net: nn.Module, size: int = 8, channels: int = 3, classes: int = 3, batch: int = 3) -> Example:
    """Cross entropy of images of random classes."""
    x, y = torch.randn(batch, channels, size, size), torch.randint(classes, (batch,))
    return Example(net, (x, y), lambda net, x, y: F.cross_entropy(net(x), y))


def convolution(
    i: int, o: int, size: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """Convolution, batch norm and activation."""
    conv = nn.Conv2d(i, o, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), act())


def head(channels: int, classes: int = 3) -> list[nn.Module]:
    """Global average pooling and a linear classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


class Residual(nn.Module):
    """x + f(x), by a projection where the shapes differ."""

    def __init__(self, body: nn.Module, skip: nn.Module | None = None):
        super().__init__()
        self.body, self.skip = body, skip or nn.Identity()

    def forward(self, x):
        return F.relu(self.skip(x) + self.body(x))


class SqueezeExcite(nn.Module):
    """Channels weighted by what they hold on average."""

    def __init__(self, channels: int):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Concatenated(nn.Module):
    """The outputs of branches, side by side; ``dense``: behind the input."""

    def __init__(self, *branches: nn.Module, dense: bool = False):
        super().__init__()
        self.branches, self.dense = nn.ModuleList(branches), dense

    def forward(self, x):
        return torch.cat([*([x] if self.dense else []), *(branch(x) for branch in self.branches)], 1)


@architecture("LeNet", "classifier")
def lenet():
    """LeCun et al., 1998."""
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 6), nn.Tanh(), nn.Linear(6, 3)
    )
    return classified(net, channels=1)


@architecture("AlexNet", "classifier, dropout on")
def alexnet():
    """Krizhevsky et al., 2012: local response normalisation, overlapping pools."""
    features = nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.LocalResponseNorm(3), nn.MaxPool2d(3, 2), nn.Flatten()
    return classified(nn.Sequential(*features, nn.Dropout(0.5), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 3)), size=16)


@architecture("VGG with BatchNorm", "classifier, train mode")
def vgg():
    """Simonyan & Zisserman, 2015."""
    return classified(
        nn.Sequential(
            convolution(3, 4),
            convolution(4, 4),
            nn.MaxPool2d(2),
            convolution(4, 6),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 3),
        )
    )


@architecture("ResNet, basic blocks", "classifier, train mode")
def resnet():
    """He et al., 2016."""

    def block(i, o, stride):
        body = nn.Sequential(convolution(i, o, 3, stride), nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o))
        skip = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride > 1 else None
        return Residual(body, skip)

    return classified(nn.Sequential(convolution(3, 4), block(4, 4, 1), block(4, 6, 2), *head(6)))


@architecture("ResNeXt, pre-activation", "classifier, train mode")
def resnext():
    """Xie et al., 2017: grouped bottlenecks."""
    narrow = nn.Conv2d(8, 4, 1, bias=False)
    body = nn.Sequential(convolution(4, 8, 1), convolution(8, 8, 3, groups=4), narrow, nn.BatchNorm2d(4))
    return classified(nn.Sequential(convolution(3, 4), Residual(body), *head(4)))


@architecture("DenseNet", "classifier, train mode")
def densenet():
    """Huang et al., 2017."""

    def layer(i):
        return Concatenated(nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 2, 3, padding=1)), dense=True)

    transition = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AvgPool2d(2))
    return classified(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer(4), layer(6), transition, layer(4), *head(6)))


@architecture("MobileNet v2", "classifier, train mode")
def mobilenet_v2():
    """Sandler et al., 2018: inverted residuals, linear bottlenecks, ReLU6."""
    inverted = nn.Sequential(
        convolution(4, 8, 1, act=nn.ReLU6),
        convolution(8, 8, 3, groups=8, act=nn.ReLU6),
        nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4),
    )
    return classified(nn.Sequential(convolution(3, 4, 3, 2, act=nn.ReLU6), Residual(inverted), *head(4)))


@architecture("MobileNet v3", "classifier, train mode, Hardswish")
def mobilenet_v3():
    """Howard et al., 2019."""

    class HardExcite(SqueezeExcite):
        def forward(self, x):
            return x * F.relu6(3 + self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))) / 6

    act = nn.Hardswish
    body = nn.Sequential(
        convolution(4, 8, 1, act=act),
        convolution(8, 8, 5, groups=8, act=act),
        HardExcite(8),
        nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4),
    )
    return classified(nn.Sequential(convolution(3, 4, 3, 2, act=act), Residual(body), *head(4)))


@architecture("EfficientNet", "classifier, train mode, stochastic depth on")
def efficientnet():
    """Tan & Le, 2019: MBConv with squeeze-and-excitation, a path dropped for whole examples."""

    class DropPath(nn.Module):
        def forward(self, x):
            return x * (torch.rand(len(x), 1, 1, 1, dtype=torch.float64) < 0.8).to(x) / 0.8

    body = nn.Sequential(
        convolution(4, 8, 1, act=nn.SiLU),
        convolution(8, 8, 3, groups=8, act=nn.SiLU),
        SqueezeExcite(8),
        nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4),
        DropPath(),
    )
    return classified(nn.Sequential(convolution(3, 4, 3, 2, act=nn.SiLU), Residual(body), *head(4)))


@architecture("SqueezeNet", "classifier")
def squeezenet():
    """Iandola et al., 2016."""
    fire = Concatenated(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    )
    return classified(
        nn.Sequential(
            nn.Conv2d(3, 3, 3, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 1, ceil_mode=True),
            fire,
            nn.Conv2d(6, 3, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    )


@architecture("ShuffleNet", "classifier, train mode")
def shufflenet():
    """Zhang et al., 2018: grouped 1×1 convolutions, channels shuffled."""

    class Shuffle(nn.Module):
        def forward(self, x):
            return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)

    body = nn.Sequential(
        convolution(4, 4, 1, groups=2),
        Shuffle(),
        convolution(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.BatchNorm2d(4),
    )
    return classified(nn.Sequential(convolution(3, 4), Residual(body), *head(4)))


@architecture("Inception", "classifier")
def inception():
    """Szegedy et al., 2015."""
    branches = (
        nn.Conv2d(3, 2, 1),
        nn.Conv2d(3, 2, 3, padding=1),
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 5, padding=2)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 2, 1)),
    )
    return classified(nn.Sequential(Concatenated(*branches), nn.ReLU(), *head(8)))
