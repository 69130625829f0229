"""Architectures of every field as examples: a net, a loss and a batch as a training loop has them, tiny and seeded.

A module a field; each function is an architecture and returns an ``Example``. Everything is made in float32: the
float64 example is the same net on the same numbers.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

Make = Callable[[], "Example"]


class Example(NamedTuple):
    """A module, its batch, and the loss that is made of both; without ``loss_of``, the module's own.

    trust: what ``capture`` is to trust.
    """

    module: nn.Module
    batch: tuple[Any, ...] | dict[str, Any]
    loss_of: Callable[..., Any] | None = None
    trust: tuple[Any, ...] = ()

    @property
    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments of the batch."""
        return ((), self.batch) if isinstance(self.batch, dict) else (self.batch, {})

    def in_dtype(self, dtype: torch.dtype) -> "Example":
        """A copy with parameters, buffers and batch in another dtype."""

        def cast(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.to(dtype) if value.is_floating_point() else value
            if isinstance(value, dict):
                return {key: cast(x) for key, x in value.items()}
            return type(value)(map(cast, value)) if isinstance(value, list | tuple) else value

        return self._replace(module=copy.deepcopy(self.module).to(dtype), batch=cast(self.batch))


class Architecture(NamedTuple):
    """An architecture by name: its field, the call that a verdict holds for, and its constructor."""

    field: str
    call: str
    make: Make

    def example(self) -> Example:
        """The example, its parameters moved off the zeros and ones that they begin with."""
        torch.manual_seed(0)
        example = self.make()
        with torch.no_grad():
            for p in example.module.parameters():
                p.add_(0.1 * torch.randn(p.shape))
        return example


ARCHITECTURES: dict[str, Architecture] = {}


def of_field(field: str) -> Callable[..., Callable[[Make], Make]]:
    """A decorator ``architecture(name, call)`` that enters a constructor of a field."""

    def architecture(name: str, call: str) -> Callable[[Make], Make]:
        def entered(make: Make) -> Make:
            assert name not in ARCHITECTURES, name
            ARCHITECTURES[name] = Architecture(field, call, make)
            return make

        return entered

    return architecture


def noise_like(x: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers, the same in every dtype."""
    return torch.randn(x.shape, dtype=torch.float64).to(x)
