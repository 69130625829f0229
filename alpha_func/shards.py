"""Tensors of which a process holds a shard: PyTorch's DTensors, seen from one rank, and inner products over all.

A parameter under ``fully_shard`` or ``parallelize_module`` is a DTensor: its shape is that of the whole, its local
tensor this rank's part of it, and its placements on a mesh of processes say which. torch.distributed.tensor is not
imported for any of this: where nobody has, there is no DTensor.
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeGuard, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from alpha_func.errors import DistributedError
from alpha_func.torch_private import plain_beneath

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement

T = TypeVar("T")
# What a backend says of a rank that is lost; Gloo's errors have no class of their own.
_LOST = re.compile(r"gloo|pair closure|connection|socket|timed? ?out", re.IGNORECASE)


class Layout(NamedTuple):
    """Where the entries of a tensor are, and what of it is here; hashable."""

    mesh: "DeviceMesh"
    placements: "tuple[Placement, ...]"
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    local_shape: tuple[int, ...]
    dtype: torch.dtype
    kept_on: torch.device

    def whole(self, local: Tensor) -> Tensor:
        """The whole tensor, of each rank's part; every rank of the mesh must ask for it."""
        return self.placed(local).full_tensor()

    def placed(self, local: Tensor) -> "DTensor":
        """The DTensor of each rank's part."""
        return sys.modules["torch.distributed.tensor"].DTensor.from_local(
            local, self.mesh, self.placements, shape=torch.Size(self.shape), stride=self.stride, run_check=False
        )

    @property
    def device(self) -> torch.device:
        """Where it is computed with, wherever shards are kept."""
        return device_of(self.mesh)

    @property
    def copies(self) -> int:
        """On how many ranks each entry is."""
        count = 1
        for size, placement in zip(self.mesh.shape, self.placements, strict=True):
            count *= size if placement.is_replicate() else 1
        return count


def is_sharded(value: object) -> "TypeGuard[DTensor]":
    """Whether a value is a DTensor.

    >>> is_sharded(torch.ones(2))
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def any_sharded(values: Iterable[object]) -> bool:
    """Whether one of them is; in no time where there are none in the process."""
    return "torch.distributed.tensor" in sys.modules and any(map(is_sharded, values))


def layout(value: Tensor) -> Layout | None:
    """Where a DTensor is; None for a tensor that is whole on every rank."""
    if not is_sharded(value):
        return None
    here = local(value)
    return Layout(
        value.device_mesh,
        tuple(value.placements),
        tuple(value.shape),
        tuple(value.stride()),
        tuple(here.shape),
        here.dtype,
        here.device,
    )


def local(value: Tensor) -> Tensor:
    """What of a tensor is here."""
    if not is_sharded(value):
        return value
    return cast("DTensor", value.detach()).to_local()


def like(here: Tensor, value: Tensor) -> Tensor:
    """What each rank has of a tensor as a DTensor placed as another; itself where that is whole."""
    place = layout(value)
    return here if place is None else place.placed(here)


def alike(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors of one shape have their entries in the same places."""
    a, b = (plain_beneath(each) if isinstance(each, Tensor) else each for each in (x, y))
    if not is_sharded(a) or not is_sharded(b):
        return is_sharded(a) is is_sharded(b)
    return (a.device_mesh, a.placements) == (b.device_mesh, b.placements)


def meshes(tensors: Iterable[object]) -> "list[DeviceMesh]":
    """The meshes of the DTensors among them."""
    return list(dict.fromkeys(tensor.device_mesh for tensor in tensors if is_sharded(tensor)))


def device_of(mesh: "DeviceMesh") -> torch.device:
    """Where this rank of a mesh computes."""
    kind = mesh.device_type
    return torch.device(kind) if kind == "cpu" else torch.device(kind, torch.accelerator.current_device_index())


def groups(meshes: "Iterable[DeviceMesh]") -> "list[ProcessGroup]":
    """The process groups of meshes, one for each dimension of a mesh."""
    found: dict[str, ProcessGroup] = {}
    for mesh in meshes:
        for dimension in range(mesh.ndim):
            group = mesh.get_group(dimension)
            found.setdefault(group.group_name, group)
    return list(found.values())


def placed_as(value: Tensor, like: Tensor) -> Tensor:
    """A tensor with its entries where those of another are."""
    if alike(value, like):
        return value
    place = layout(like)
    if place is None or not is_sharded(value):
        raise TypeError("an inner product of a DTensor and a tensor that is whole: make both one or the other")
    return value.redistribute(place.mesh, place.placements)


def vdot(products: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """The sum over all ranks of what each has of some inner products; what several have counts once.

    Args:
        products: of what is here.
        tensors: one of each, which says where it is.
    """
    sums: dict[DeviceMesh | None, list[Tensor]] = {}
    for product, tensor in zip(products, tensors, strict=True):
        place = layout(tensor)
        mesh, part = (None, product) if place is None else (place.mesh, product / place.copies)
        sums.setdefault(mesh, []).append(part)
    totals = []
    for mesh, parts in sums.items():
        total = torch.stack([part.to(parts[0].device) for part in parts]).sum()
        if mesh is not None:
            for dimension in range(mesh.ndim):
                total = summed(total, mesh.device_type, mesh.get_group(dimension))
        totals.append(total)
    return torch.stack([total.to(totals[0].device) for total in totals]).sum()


def summed(number: Tensor, device: str, group: object) -> Tensor:
    """The sum of a tensor over a group, whose backend takes tensors of a device."""
    there = number.to(device, copy=True)
    attempt(lambda: dist.all_reduce(there, group=group))
    return there.to(number.device)


def attempt(collective: Callable[[], T]) -> T:
    """A collective, whose failure is a DistributedError."""
    try:
        return collective()
    except RuntimeError as error:
        raise DistributedError(
            f"rank {dist.get_rank()} waited for another rank that never arrived: that rank failed (see its own "
            "output), hangs, does not make this call (an Observer is to be made on every rank), or took fewer batches "
            "of a loss that itself communicates (lockstep=True reports this); "
            f"the process group cannot be used again ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error


def together(run: Callable[[], T]) -> T:
    """What all ranks compute and gather together: a rank that is lost is a DistributedError, any other error itself."""
    own: list[RuntimeError] = []

    def computed() -> T | None:
        try:
            return run()
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or _LOST.search(str(error)):
                raise
            own.append(error)
            return None

    found = attempt(computed)
    if own:
        raise own[0]
    return found  # type: ignore[return-value]
