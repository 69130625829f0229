"""The models, one function each: ``@model(name)`` on a function of ``small`` that returns a Case adds it.

The first sentence of its docstring describes it in the report; ``small`` asks for the size of the quick setting.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.nets import GPT, Residual
from benchmarks.problems import Case

MODELS: dict[str, "Model"] = {}
DEPTHS, WIDTHS, BATCHES = (2, 6, 12, 24, 48), (64, 128, 256, 512, 1024), (16, 64, 256, 1024)


class Model(NamedTuple):
    """A registered model: curve and size are set on the points of the scaling curves."""

    make: Callable[[bool], Case]
    description: str
    curve: str = ""
    size: int = 0
    small: bool = True  # whether the quick setting has it


def model(name: str, **attributes) -> Callable:
    """Register a function of ``small`` as a model."""

    def register(make: Callable[[bool], Case]) -> Callable[[bool], Case]:
        described = getattr(make, "func", make)
        MODELS[name] = Model(make, described.__doc__.partition(".")[0].format(**attributes), **attributes)
        return make

    return register


def regression(n: int, features: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Normal inputs and targets."""
    return lambda: (torch.randn(n, features), torch.randn(n, 1))


def classification(n: int, *shape: int, classes: int = 10) -> Callable[[], tuple[Tensor, Tensor]]:
    """Normal inputs and random classes."""
    return lambda: (torch.randn(n, *shape), torch.randint(classes, (n,)))


@model("10-5-1")
def first_experiment(small: bool) -> Case:
    """The net of the first experiment: 10-5-1 with ReLU and MSELoss, batch 32."""
    net = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))
    return Case(net, nn.MSELoss(), regression(32, 10), "mlp_relu")


def tanh_mlp(depth: int, width: int, batch: int) -> Case:
    """A tanh MLP: depth linear layers of the width, then ten classes."""
    hidden = [layer for m, n in pairwise([width] * (depth + 1)) for layer in (nn.Linear(m, n), nn.Tanh())]
    net = nn.Sequential(*hidden, nn.Linear(width, 10))
    return Case(net, nn.CrossEntropyLoss(), classification(batch, width), "mlp_tanh")


@model("mlp")
def mlp(small: bool) -> Case:
    """Tanh MLP, six hidden layers of 512, cross entropy, batch 256."""
    return tanh_mlp(6, 32, 32) if small else tanh_mlp(6, 512, 256)


@model("mlp+layernorm")
def normed_mlp(small: bool) -> Case:
    """Three hidden layers of 256, each with LayerNorm and GELU, batch 256."""
    width, batch = (16, 16) if small else (256, 256)
    layers = [m for _ in range(3) for m in (nn.Linear(width, width), nn.LayerNorm(width), nn.GELU())]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    return Case(net, nn.CrossEntropyLoss(), classification(batch, width), "mlp_layer_norm")


@model("conv")
def conv(small: bool) -> Case:
    """Conv net, 32-64-128 channels with ReLU and max-pooling, batch 64 of 3×32×32."""
    channels, side, batch = ((3, 4, 8), 8, 8) if small else ((3, 32, 64, 128), 32, 64)
    layers: list[nn.Module] = []
    for m, n in pairwise(channels):
        layers += [nn.Conv2d(m, n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        side //= 2
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * side**2, 10))
    start = side * 2 ** (len(channels) - 1)
    return Case(net, nn.CrossEntropyLoss(), classification(batch, 3, start, start), "conv")


@model("resnet")
def resnet(small: bool) -> Case:
    """Two residual blocks of width 32 with BatchNorm in train mode and SiLU, batch 64 of 3×32×32."""
    width, side, batch = (4, 6, 8) if small else (32, 32, 64)
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU(),
        Residual(width), Residual(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )  # fmt: skip
    return Case(net, nn.CrossEntropyLoss(), classification(batch, 3, side, side), "resnet")


def gpt_case(small: bool, explicit: bool) -> Case:
    """A pre-LN GPT on random tokens."""
    vocabulary, width, heads, layers, context, n = (11, 8, 2, 1, 6, 2) if small else (1000, 256, 4, 4, 128, 8)
    net = GPT(vocabulary, width, heads, layers, context, explicit=explicit)

    def draw() -> tuple[Tensor, Tensor]:
        return torch.randint(vocabulary, (n, context)), torch.randint(vocabulary, (n * context,))

    return Case(net, nn.CrossEntropyLoss(), draw, "gpt4" if heads == 4 else "gpt2")


@model("gpt softmax")
def gpt_softmax(small: bool) -> Case:
    """Pre-LN GPT with explicit softmax, four layers of width 256, 8 sequences of 128 tokens."""
    return gpt_case(small, explicit=True)


@model("gpt sdpa")
def gpt_sdpa(small: bool) -> Case:
    """The same GPT with scaled_dot_product_attention."""
    return gpt_case(small, explicit=False)


class LastOutput(nn.Module):
    """The last output of an LSTM, read by a linear layer."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.lstm, self.head = nn.LSTM(features, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of sequences (batch, time, features)."""
        return self.head(self.lstm(x)[0][:, -1])


@model("lstm")
def lstm(small: bool) -> Case:
    """LSTM of width 128 over 32 steps, batch 32."""
    features, width, steps, batch = (3, 4, 3, 4) if small else (32, 128, 32, 32)
    return Case(LastOutput(features, width), nn.CrossEntropyLoss(), classification(batch, steps, features), "lstm")


def curve_point(curve: str, size: int, small: bool) -> Case:
    """Tanh MLP of six layers of 256, batch 128, with {curve} {size}."""
    sizes = {"depth": 6, "width": 16 if small else 256, "batch": 16 if small else 128, curve: size}
    return tanh_mlp(**sizes)


for curve_, sizes_ in {"depth": DEPTHS, "width": WIDTHS, "batch": BATCHES}.items():
    for size_ in sizes_:
        shown = curve_ == "depth" and size_ in (6, 48)
        point_ = partial(curve_point, curve_, size_)
        model(f"{curve_} {size_}", curve=curve_, size=size_, small=shown)(point_)
