"""A step of parameters that are sharded over processes: the loss of the global batch, and no gradient but the loop's.

Every rank measures its own batch while all gather together; the record is the mean over the ranks of the mesh, as the
gradient is that ``fully_shard`` averages. There is no gradient of the measured loss. Where its slope is not the trained
one, two further slopes are measured: if the loop's gradient is one multiple of the measured one along d, along itself
and along a random direction, it was clipped or scaled.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from alpha_func import tree
from alpha_func.capture.sharded.agreement import Agreement, Found
from alpha_func.errors import CaptureError
from alpha_func.losses.sharding import is_spread, own_precisions
from alpha_func.observer.batches import Batch
from alpha_func.observer.measuring import Meter, Part
from alpha_func.observer.ranks import all_have
from alpha_func.observer.record import agreeing, divided
from alpha_func.observer.snapshot import Given
from alpha_func.observer.trained import Trained, mean, with_factor
from alpha_func.shards import layout, like, local


class MeterOfShards(Meter):
    """Measures the mean over the ranks of a mesh; each hands over equally many batches a step."""

    explains = False

    def part(
        self, theta: dict[str, Tensor], d: dict[str, Tensor], batch: Batch, *, end: dict[str, Tensor] | None = None
    ) -> Part:
        """The mean of the ranks' quadratics."""
        own = super().part(theta, d, batch, end=end)
        return Part(*self._agreement.mean(own))

    @property
    def computes_in(self) -> set[torch.dtype]:
        """What the mixed-precision policy of ``fully_shard`` says."""
        return own_precisions(self._modules[0], of_gradients=True)

    def all_are(self, ready: Callable[[], int]) -> bool:
        """Whether every rank of the mesh is; none waits for one that has failed before."""

        def own() -> tuple[Found, None]:
            count = ready()
            return Found("", [float(count), -float(count)]), None

        (most, least), _ = self._agreement("the end of a step", own)
        return all_have(-least, most)

    def agreed(self, against: Given) -> Given:
        """The means: of parameters that no rank has a shard of, each has a gradient of its own."""
        return Given(against.lr, *self._agreement.mean(against[1:]))

    def told(self, batches: Sequence[Batch]) -> list[float]:
        """The mean of what the ranks say that their losses were."""
        return self._agreement.mean(super().told(batches))

    def give_up_programs(self, why: str) -> None:
        """Refused: nothing else measures them."""
        raise CaptureError(
            f"sharded parameters can only be measured by a captured program, and this loss has none: {why}"
        )

    def judged(
        self,
        theta: dict[str, Tensor],
        batches: Sequence[Batch],
        parts: Sequence[Part],
        grads: Mapping[str, Tensor],
        trained_slope: float,
        dtype: torch.dtype,
    ) -> Trained | None:
        """Whether the loop's gradient is one multiple of the measured one."""
        weights = mean(len(batches))

        def slope(line: dict[str, Tensor]) -> float:
            return sum(w * self.part(theta, line, batch).slope for w, batch in zip(weights, batches, strict=True))

        g = {n: grads[n].to(value.dtype) if n in grads else torch.zeros_like(value) for n, value in theta.items()}
        factor = divided(trained_slope, sum(w * part.slope for w, part in zip(weights, parts, strict=True)))
        alike = True
        for line in (g, {name: _noise(value, i) for i, (name, value) in enumerate(theta.items())}):
            here = [float(x) for x in (tree.vdot(line, g), tree.norm(line), tree.norm(g))]
            given, *norms = self._agreement.mean(here)
            alike &= agreeing(given, factor * slope(line), scale=math.prod(norms), dtype=dtype) is True
        return with_factor(weights, factor) if alike else Trained(weights, math.nan, False)

    @property
    def _agreement(self) -> Agreement:
        module = self._modules[0]
        return Agreement.of([*module.parameters(), *module.buffers()])


def ranks(module: nn.Module) -> int:
    """Of how many ranks a step of a module's sharded parameters is; 0 where it has none."""
    if not is_spread(module):
        return 0
    places = [place for place in map(layout, module.parameters()) if place is not None]
    return max((int(place.mesh.size()) for place in places), default=0)


def _noise(value: Tensor, seed: int) -> Tensor:
    """Of the size of a tensor, the same on ranks that have the same of it."""
    here = local(value)
    drawn = torch.randn(here.shape, generator=torch.Generator().manual_seed(seed)).to(here)
    return like(drawn, value)
