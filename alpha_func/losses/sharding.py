"""Parameters that are spread over processes: what of PyTorch's own is refused, and why.

Seen with two processes and torch 2.13: a module under FSDP gathers its own shards in its forward, whatever parameters
it is called with; the loss is then constant in ``params``, and slope and curvature come out as 0. The derivatives of
DTensors are wrong for some placements, silently: of a mean squared error over a sharded last layer, the slope doubles.
"""

import sys
from typing import Any

from torch import nn

_GATHER = (
    "gather it on every process (DTensor.full_tensor()) and spread the data instead, by data_parallel_quadratic; where "
    "one process cannot hold the model, see docs/scale.md"
)


def is_dtensor(value: Any) -> bool:
    """Whether a value is a DTensor; torch.distributed.tensor is not imported for that.

    >>> import torch
    >>> is_dtensor(torch.ones(2))
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def refuse_dtensor(name: str, value: Any) -> None:
    """Refuse a DTensor under the name of the argument that it is in."""
    if is_dtensor(value):
        placements = ", ".join(map(str, value.placements))
        raise TypeError(
            f"{name} is a DTensor ({placements}): PyTorch's derivatives of those are wrong for some placements; "
            + _GATHER
        )


def refuse_sharded(module: nn.Module) -> None:
    """Refuse a module with a layer under FSDP, of either kind, or a parameter or buffer that is a DTensor."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    for name, layer in module.named_modules():
        if isinstance(layer, kinds):
            where = f"its layer {name!r}" if name else "it"
            raise TypeError(
                f"module is under FSDP ({where} is a {type(layer).__name__}), whose forward reads its own shards and "
                f"not the params it is called with: {_GATHER}"
            )
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for name, value in tensors:
            refuse_dtensor(f"module's {kind} {name!r}", value)
