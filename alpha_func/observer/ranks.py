"""A step of DistributedDataParallel, whose gradient is the mean over all ranks: the loss of the global batch.

Every rank measures its own batches along the one step that all of them took, which is agreed on with every batch, and a
few numbers are averaged. A rank that fails, is elsewhere or has fewer batches is told to the others.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from alpha_func.data_sets.ranks import IDENTITY, exchange, identity, require_alike
from alpha_func.errors import DistributedError
from alpha_func.observer.batches import Batch
from alpha_func.observer.measuring import Meter, Part
from alpha_func.shards import attempt

T = TypeVar("T")
_AT_ONCE = 4  # numbers that go with the identity of a step


class MeterOverRanks(Meter):
    """Measures the mean over the ranks of their losses; every rank hands over equally many batches a step."""

    def part(
        self, theta: dict[str, Tensor], d: dict[str, Tensor], batch: Batch, *, end: dict[str, Tensor] | None = None
    ) -> Part:
        """The mean of the ranks' quadratics."""
        own = partial(super().part, theta, d, batch, end=end)
        found: list[Part] = []

        def numbers() -> list[float]:
            found.append(own())
            return [*identity("", theta, d), *found[0][:_AT_ONCE]]

        table = exchange("a batch of the step", numbers)
        require_alike(table, None)
        value, slope, curvature, after = table[:, IDENTITY : IDENTITY + _AT_ONCE].mean(0).tolist()
        third = math.nan
        if self.third:
            third = exchange("its third derivative", lambda: [found[0].third])[:, 0].mean().item()
        return Part(value, slope, curvature, after, third)

    def all_are(self, ready: Callable[[], int]) -> bool:
        """Whether every rank is; none waits for one that has failed before."""
        counts = exchange("the end of a step", lambda: [float(ready())])[:, 0]
        return all_have(float(counts.min()), float(counts.max()))

    def gradient(self, theta: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The mean of the ranks' gradients."""
        found = _when_all_have("the gradient of a batch", partial(super().gradient, theta, batch))
        flat = _mean(torch.cat([leaf.reshape(-1) for leaf in found.values()]))
        pieces: Sequence[Tensor] = flat.split_with_sizes([leaf.numel() for leaf in theta.values()])
        return {name: piece.view_as(theta[name]) for name, piece in zip(theta, pieces, strict=True)}

    def told(self, batches: Sequence[Batch]) -> list[float]:
        """The mean of what the ranks say that their losses were."""
        found = _when_all_have("the losses of the step", partial(super().told, batches))
        device = next(self._modules[0].parameters()).device if dist.get_backend() == "nccl" else None
        return _mean(torch.tensor(found, dtype=torch.float64, device=device)).tolist()


def _when_all_have(where: str, own: Callable[[], T]) -> T:
    """What this rank finds, when no other has failed to."""
    found: list[T] = []

    def numbers() -> tuple[()]:
        found.append(own())
        return ()

    exchange(where, numbers)
    return found[0]


def _mean(own: Tensor) -> Tensor:
    attempt(lambda: dist.all_reduce(own))
    return own / dist.get_world_size()


def all_have(least: float, most: float) -> bool:
    """Whether every rank has batches for a step, from the least and the most that any of them has.

    >>> all_have(1.0, 2.0)
    Traceback (most recent call last):
    alpha_func.errors.DistributedError: one rank handed over 1 batches for the step, and another 2: call \
observer.batch on every rank as often
    """
    if 0 < least < most:
        raise DistributedError(
            f"one rank handed over {least:.0f} batches for the step, and another {most:.0f}: call observer.batch on "
            "every rank as often"
        )
    return least > 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
