"""What measures the steps of a module: this process, all that train together, or those that hold its shards."""

from torch import nn

from alpha_func.observer import shards
from alpha_func.observer.measuring import Meter
from alpha_func.observer.ranks import MeterOverRanks, world_size
from alpha_func.observer.shards import MeterOfShards
from alpha_func.transforms.strategies import StrategyLike


def meter_for(
    module: nn.Module, *, over_ranks: bool | None, strategy: StrategyLike | None, trust_radius: bool
) -> tuple[type[Meter], int]:
    """The kind of a meter, and of how many ranks its records are.

    Args:
        module: as it is called in the loop, possibly compiled or distributed.
        over_ranks, strategy, trust_radius: as for ``Observer``.

    Raises:
        ValueError: something is asked of sharded parameters that is not had of them.
    """
    of_shards = shards.ranks(module)
    if of_shards and (over_ranks is False or strategy is not None):
        option = f"strategy={strategy!r}" if strategy is not None else "over_ranks=False"
        raise ValueError(
            f"{option} cannot be used with sharded parameters: they are measured by a captured program, on the global "
            "batch; leave it out"
        )
    if of_shards and trust_radius:
        raise ValueError(
            "trust_radius=True cannot be used with sharded parameters: only their quadratic is measured; leave it out"
        )
    if of_shards:
        return MeterOfShards, of_shards
    if over_ranks is None:
        over_ranks = isinstance(getattr(module, "_orig_mod", module), nn.parallel.DistributedDataParallel)
    count = world_size() if over_ranks else 1
    return (MeterOverRanks if count > 1 else Meter), count
