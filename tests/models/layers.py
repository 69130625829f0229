"""Layers that the nets of several fields are made of."""

from itertools import pairwise

from torch import nn


def mlp(*sizes: int, act: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Linear layers with a nonlinearity between."""
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), act())]
    return nn.Sequential(*layers[:-1])
