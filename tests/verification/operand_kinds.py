"""Kinds of operands that a rule must be right for, each made of an operator's generic sample.

A kind changes the values that the moved operands start at, how a parameter becomes the operand (its layout, its
broadcast), which operands are moved, or what stands beside them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Kind(NamedTuple):
    """One kind; None where a kind leaves a thing as it is.

    Attributes:
        value: of an operand, the parameter that it is made of; None for an operand that cannot be of this kind.
        shown: of a parameter and the operand's shape, the operand.
        moves: of how many operands that could be moved, which are.
        beside: of an operand that is not moved, what stands in its place.
    """

    value: Callable[[Tensor], Tensor | None] | None = None
    shown: Callable[[Tensor, Any], Tensor] | None = None
    moves: Callable[[int], list[bool]] | None = None
    beside: Callable[[Tensor], Tensor] | None = None


def _every_second_zero(t: Tensor) -> Tensor:
    return t * (torch.arange(t.numel()) % 2).reshape(t.shape).to(t.dtype)


def _all_alike(t: Tensor) -> Tensor:
    return torch.full_like(t, float(t.detach().reshape(-1)[0])) if t.numel() else t


def _narrow(t: Tensor) -> Tensor | None:
    dim = next((i for i, size in enumerate(t.shape) if size > 1), None)
    return None if dim is None else t.narrow(dim, 0, 1).clone()


def _two_in_memory(x: Tensor, shape: Any) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _as_a_transpose(x: Tensor, shape: Any) -> Tensor:
    return x.mT.contiguous().mT if x.ndim > 1 else x


def _channels_last(t: Tensor) -> Tensor | None:
    return t if t.ndim == 4 else None


def _first(count: int) -> list[bool]:
    return [i == 0 for i in range(count)]


def _all_but_first(count: int) -> list[bool]:
    return [i > 0 for i in range(count)]


def _all_but_last(count: int) -> list[bool]:
    return [i < count - 1 for i in range(count)]


KINDS: dict[str, Kind] = {
    "generic": Kind(),
    "zeros": Kind(value=_every_second_zero),
    "ones": Kind(value=torch.ones_like),
    "ties": Kind(value=_all_alike),
    "expanded": Kind(value=_narrow, shown=lambda x, shape: x.expand(shape)),
    "size_1": Kind(value=lambda t: t.narrow(-1, 0, 1).clone() if t.ndim else None),
    "0-d": Kind(value=lambda t: t.reshape(-1)[0].clone() if t.numel() else None),
    "strided": Kind(shown=_two_in_memory),
    "transposed": Kind(shown=_as_a_transpose),
    "channels_last": Kind(_channels_last, lambda x, _: x.contiguous(memory_format=torch.channels_last)),
    "others_constant": Kind(moves=_first),
    "first_constant": Kind(moves=_all_but_first),
    "integer_beside": Kind(moves=_all_but_last, beside=lambda t: t.round().long()),
    "bool_beside": Kind(moves=_all_but_last, beside=lambda t: t > 0),
    "complex_beside": Kind(moves=_all_but_last, beside=lambda t: torch.complex(t, t.flip(-1) if t.ndim else t)),
    "float32_beside": Kind(moves=_all_but_last, beside=lambda t: t.float()),
}
VALUES = ("zeros", "ones", "ties")  # of another value alone: the program is that of the generic operands
