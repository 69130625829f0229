"""A step of DistributedDataParallel, whose gradient is the mean over all ranks: the loss of the global batch.

Every rank measures its own batches along the one step that all of them took, and a few numbers are averaged. A rank
that fails says so to the others.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from alpha_func.errors import ObserverError
from alpha_func.observer.batches import Batch
from alpha_func.observer.measuring import Meter, Part


class MeterOverRanks(Meter):
    """Measures the mean over the ranks of their losses; every rank hands over equally many batches a step."""

    def part(
        self, theta: dict[str, Tensor], d: dict[str, Tensor], batch: Batch, *, end: dict[str, Tensor] | None = None
    ) -> Part:
        """The mean of the ranks' quadratics."""
        found, error = Part(math.nan, math.nan, math.nan, math.nan), None
        try:
            found = super().part(theta, d, batch, end=end)
        except Exception as own:
            error = own
        value, slope, curvature, after = self._mean(torch.tensor(found, dtype=torch.float64), error).tolist()
        return Part(value, slope, curvature, after)

    def gradient(self, theta: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The mean of the ranks' gradients."""
        found, error = theta, None
        try:
            found = super().gradient(theta, batch)
        except Exception as own:
            error = own
        flat = self._mean(torch.cat([leaf.reshape(-1) for leaf in found.values()]), error)
        pieces = torch.split(flat, [leaf.numel() for leaf in theta.values()])
        return {name: piece.view_as(theta[name]) for name, piece in zip(theta, pieces, strict=True)}

    def told(self, batches: Sequence[Batch]) -> list[float]:
        """The mean of what the ranks say that their losses were."""
        return self._mean(torch.tensor(super().told(batches), dtype=torch.float64), None).tolist()

    def _mean(self, own: Tensor, error: Exception | None) -> Tensor:
        device = torch.accelerator.current_accelerator() if dist.get_backend() == "nccl" else None
        own = own.to(device) if device is not None else own
        failed = torch.tensor([float(error is not None)], device=own.device, dtype=own.dtype)
        together = torch.cat([own, failed])
        dist.all_reduce(together)
        if error is not None:
            raise error
        if together[-1] > 0:
            raise ObserverError("another rank could not measure the step: its log says why")
        return together[:-1] / dist.get_world_size()


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
