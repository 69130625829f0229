"""Where numbers are compared: at the values of a call, away from them, and whether there are any."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alpha_func.capture.tracing.outside import values
from alpha_func.losses.in_double import doubled

_AWAY = 0.1  # how far the second point lies from the first, relative to each parameter
_DRAWN = 65537  # a prime: rows of a matrix do not have the same numbers


class NoEvidence(Exception):  # noqa: N818  not an error
    """No independent route runs here: the tensors have no values, or PyTorch cannot differentiate the program.

    lasting: whether none will run at a later call either.
    """

    def __init__(self, what: str, *, lasting: bool):
        super().__init__(what)
        self.lasting = lasting


@dataclass(frozen=True)
class Point:
    """Where numbers are compared: inputs of the program, and the direction; all without transforms."""

    inputs: list[Tensor]
    direction: list[Tensor] | None  # None: −g

    def away(self, params: int) -> "Point":
        """Other parameters near these, and a random direction of their size; the same at every call."""
        noise = torch.Generator().manual_seed(0)
        moved, direction = list(self.inputs), None if self.direction is None else list[Tensor]()
        for i, θ in enumerate(self.inputs[:params]):
            r = _normal(θ, noise)
            size = θ.abs().mean() if θ.numel() else θ.sum()
            scale = torch.where(size > 0, size, torch.full_like(size, _AWAY))
            moved[i] = torch.where(θ != 0, θ * (1 + _AWAY * r), _AWAY * scale * r)
            if direction is not None:
                direction.append(_normal(θ, noise) * scale)
        return Point(moved, direction)

    def shaken(self, params: int, seed: int) -> "Point":
        """The parameters off by about a rounding."""
        noise, inputs = torch.Generator().manual_seed(seed), list(self.inputs)
        for i, θ in enumerate(self.inputs[:params]):
            eps = torch.finfo(θ.dtype).eps
            inputs[i] = θ * (1 + eps * _normal(θ, noise).sgn())
        return Point(inputs, self.direction)

    def in_double(self) -> "Point":
        """The same values in double precision."""
        return Point(list(map(doubled, self.inputs)), self.direction and list(map(doubled, self.direction)))


def _normal(like: Tensor, noise: torch.Generator) -> Tensor:
    """Normal numbers in a shape, none far out; a large shape repeats those that are drawn."""
    count = like.numel()
    drawn = torch.randn(min(count, _DRAWN), generator=noise).clamp(-3, 3).to(like)
    return drawn.repeat(-(-count // _DRAWN))[:count].view(like.shape)


def values_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The values beneath transforms, one example of a batch."""
    found = [recordable(values(tensor)) for tensor in tensors]
    kept = [tensor for tensor in found if tensor is not None]
    if len(kept) < len(found):
        raise NoEvidence("the tensors have no values", lasting=False)
    return kept


def recordable(tensor: Tensor | None) -> Tensor | None:
    """The tensor for autograd to record, which takes none that was made in inference mode."""
    if tensor is None or not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()
