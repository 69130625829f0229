"""The values of a program while it grows: which there are, which to take next, and new inputs.

Every value is known by its name and held as a tensor, so that what is inserted is run at once.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST = 60  # entries of what operands broadcast to


class Pool:
    """Values by name, and the code of those that are inputs.

    Attributes:
        values: the tensors.
        used: the names of those that a statement has read.
        params, args: name to the code of a tensor.
    """

    def __init__(self, draw: random.Random, dtype: str, *, zeros: bool):
        self.draw, self.dtype, self.zeros = draw, dtype, zeros
        self.space: dict[str, Any] = {"torch": torch, "F": F, "f32": torch.float32}
        self.values: dict[str, Tensor] = {}
        self.used: set[str] = set()
        self.params: dict[str, str] = {}
        self.args: dict[str, str] = {}
        self.fresh = draw.choice(["ppa", "ppa", "paaaa"])  # what a new input is: a parameter or an argument

    def add(self, name: str, value: Tensor) -> None:
        """A further value."""
        self.values[name] = self.space[name] = value

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a value."""
        return tuple(self.values[name].shape)

    def pick(self, kind: str = "float", fits: Callable[[Tensor], bool] = lambda t: True) -> str | None:
        """One of the values of a kind, rather one that nothing has used or a late one."""
        found = [name for name, value in self.values.items() if kind_of(value) == kind and fits(value)]
        unused = [name for name in found if name not in self.used]
        if unused and self.draw.random() < 0.6:
            return self.draw.choice(unused)
        return self.draw.choice(found[-6:]) if found else None

    def new(self, shape: tuple[int, ...], kind: str | None = None) -> str:
        """A new input: "p", a parameter, or "a", an argument; of some dtype, layout and values."""
        draw = self.draw
        kind = kind or draw.choice(self.fresh)
        narrow = self.dtype == "float32" or (self.dtype == "mixed" and draw.random() < 0.4)
        sparse = self.zeros and draw.random() < 0.5
        code = laid_out(draw, shape, torch.float32 if narrow else torch.float64, sparse)
        inputs = self.params if kind == "p" else self.args
        name = f"{kind}{len(inputs)}"
        inputs[name] = code
        self.add(name, eval(code, self.space))
        return name

    def some_shape(self, dims: int | None = None) -> tuple[int, ...]:
        """A small shape, often with a dim of size 1."""
        count = self.draw.choice([0, 1, 1, 2, 2, 2, 3, 3, 4]) if dims is None else dims
        return tuple(self.draw.choice([1, 1, 2, 2, 3, 4]) for _ in range(count))


def kind_of(value: Tensor) -> str:
    """What operators it can be an operand of."""
    if value.is_floating_point():
        return "float"
    if value.is_complex():
        return "complex"
    return "bool" if value.dtype == torch.bool else "integer"


def broadcasts_with(shape: tuple[int, ...]) -> Callable[[Tensor], bool]:
    """Whether a tensor broadcasts with a shape, to something small."""

    def fits(value: Tensor) -> bool:
        try:
            return math.prod(torch.broadcast_shapes(value.shape, shape)) <= _LARGEST
        except RuntimeError:
            return False

    return fits


def literal(draw: random.Random, shape: tuple[int, ...], dtype: torch.dtype, sparse: bool = False) -> str:
    """The code of a tensor of random numbers; sparse, with zeros, ones and ties among them."""
    numbers = [
        draw.choice([0.0, 0.0, 1.0, -1.0, 0.5]) if sparse and draw.random() < 0.6 else round(draw.gauss(0, 0.9), 2)
        for _ in range(math.prod(shape))
    ]
    return f"torch.tensor({torch.tensor(numbers, dtype=torch.float64).reshape(shape).tolist()}, dtype={dtype})"


def laid_out(draw: random.Random, shape: tuple[int, ...], dtype: torch.dtype, sparse: bool) -> str:
    """The code of a tensor of a shape in some layout: permuted, expanded, every second entry, channels last, dense."""
    dims, how = len(shape), draw.random()
    if dims > 1 and how < 0.15:
        return literal(draw, shape[::-1], dtype, sparse) + f".permute({tuple(range(dims))[::-1]})"
    if dims and how < 0.22:
        expanded = draw.randrange(dims)
        narrow = tuple(1 if i == expanded else size for i, size in enumerate(shape))
        return literal(draw, narrow, dtype, sparse) + f".expand({shape})"
    if dims and how < 0.28:
        return literal(draw, (*shape[:-1], 2 * shape[-1]), dtype, sparse) + "[..., ::2]"
    layout = ".contiguous(memory_format=torch.channels_last)" if dims == 4 and how < 0.5 else ""
    return literal(draw, shape, dtype, sparse) + layout
