"""A module whose parameters PyTorch's distributed engine shards, as the plain module that it stands for.

``fully_shard`` and ``parallelize_module`` leave a module as it was, save for hooks that communicate and parameters that
are DTensors. Without these hooks, and with tensors of the whole shapes in place of the DTensors, it is the module of
one process, of which a loss is recorded. The stand-ins have shapes and no memory: a recording computes nothing.

Other ways of spreading a module keep no such description of the whole, and are refused: FullyShardedDataParallel, which
flattens parameters, sums that were not taken (``Partial``), stages of a pipeline.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from alpha_func import shards, torch_private, tree
from alpha_func.calls import Args, Kwargs
from alpha_func.errors import AlphaFuncError, CaptureError
from alpha_func.losses.draws import seeded_rng
from alpha_func.losses.restoring import restored

_UNCAPTURED = (
    "a DTensor ({placements}), for which PyTorch's derivatives are not correct: capture the loss, "
    "quadratic_along(capture(loss))(params, direction, *batch)"
)


def refuse_uncaptured(name: str, value: object) -> None:
    """Refuse a DTensor, under the name of the argument that it is in, where there is no program to gather it."""
    if shards.is_sharded(value):
        placements = ", ".join(map(str, value.placements))
        raise TypeError(f"{name} is {_UNCAPTURED.format(placements=placements)}")


def refuse_partial(name: str, value: object) -> None:
    """Refuse a DTensor of which every rank has a summand."""
    if shards.is_sharded(value) and any(placement.is_partial() for placement in value.placements):
        placements = ", ".join(map(str, value.placements))
        raise TypeError(
            f"{name} is a DTensor whose sum over the ranks has not been taken ({placements}): "
            "redistribute it to Shard or Replicate"
        )


def refuse_unknown(module: object) -> None:
    """Refuse a module that is spread over processes in a way that does not say what the whole is."""
    if type(module).__module__.startswith("torch.distributed.pipelining"):
        raise TypeError(
            f"module is a {type(module).__name__}, one stage of a pipeline, which does not compute the whole loss: "
            "shard the whole module by torch.distributed.fsdp.fully_shard"
        )
    if not isinstance(module, nn.Module):
        return
    fsdp = sys.modules.get("torch.distributed.fsdp")
    flat = () if fsdp is None else (fsdp.FullyShardedDataParallel,)
    for name, layer in module.named_modules():
        where = f"its layer {name!r}" if name else "it"
        if isinstance(layer, flat):
            raise TypeError(
                f"module is under FSDP1 ({where} is a {type(layer).__name__}), which flattens its parameters: shard it "
                "by torch.distributed.fsdp.fully_shard, whose parameters keep their names and shapes"
            )
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for name, value in tensors:
            refuse_partial(f"module's {kind} {name!r}", value)


def is_spread(module: nn.Module) -> bool:
    """Whether it is under ``fully_shard``, or has a parameter or buffer that is a DTensor."""
    tensors = [*module.parameters(), *module.buffers()]
    return shards.any_sharded(tensors) or any(
        not torch_private.FSDP_MARKS.isdisjoint(vars(part)) for part in module.modules()
    )


def reshard(module: nn.Module) -> None:
    """Give back what ``fully_shard`` has gathered: the root's parameters stay whole after a forward in evaluation."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    for part in module.modules() if fsdp is not None else ():
        if isinstance(part, fsdp.FSDPModule):  # type: ignore[union-attr]
            part.reshard()


def stand_in(value: Tensor) -> Tensor:
    """A tensor of the whole shape of a DTensor, on the device that it is computed on, without memory."""
    place = shards.layout(value)
    return value if place is None else _empty(place.shape, place.stride, place.dtype, place.device).detach()


@cache
def _empty(shape: Any, stride: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    made = torch.empty_strided(shape, stride, dtype=dtype, device=device)
    made.untyped_storage().resize_(0)
    return made


class Standing:
    """What stands in for which DTensor of a module."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # by the id of the DTensor

    def of(self, value: Tensor | None) -> Tensor | None:
        """The stand-in of a parameter or buffer that is a DTensor, always the same one; anything else itself."""
        if value is None or not shards.is_sharded(value):
            return value
        if id(value) not in self._kept:
            made = stand_in(value)
            if isinstance(value, nn.Parameter):
                made = nn.Parameter(made, value.requires_grad)
            self._kept[id(value)] = value, made
        return self._kept[id(value)][1]

    def meant(self, tensor: Tensor) -> Tensor:
        """The DTensor that a tensor stands in for; any other tensor itself."""
        return next((value for value, made in self._kept.values() if made is tensor), tensor)


@contextmanager
def unsharded(module: nn.Module, standing: Standing) -> Iterator[None]:
    """Within, the module is the one that it was before it was sharded; not for two threads at a time."""
    undo: list[tuple[dict[Any, Any], dict[Any, Any]]] = []

    def change(items: dict[Any, Any], changed: dict[Any, Any]) -> None:
        undo.append((items, dict(items)))
        items.clear()
        items.update(changed)

    try:
        for part in module.modules():
            attributes: dict[Any, Any] = vars(part)
            if not torch_private.FSDP_MARKS.isdisjoint(attributes):
                change(attributes, {k: v for k, v in attributes.items() if k not in torch_private.FSDP_MARKS})
            for hooks in (part._forward_pre_hooks, part._forward_hooks):
                kept = {key: hook for key, hook in hooks.items() if not _communicates(hook)}
                if len(kept) < len(hooks):
                    change(hooks, kept)
            for tensors in (part._parameters, part._buffers):
                if shards.any_sharded(tensors.values()):
                    change(tensors, {key: standing.of(value) for key, value in tensors.items()})
        yield
    finally:
        for items, before in reversed(undo):
            items.clear()
            items.update(before)


def _communicates(hook: object) -> bool:
    """Whether torch.distributed put a hook there: that of ``fully_shard``, of ``parallelize_module``."""
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.")


def own_parameters(loss: Any) -> list[Tensor]:
    """Those of the module, in the order of the loss's."""
    return [value.detach() for _, value in loss.trained()]


def own_value(loss: Any, args: Args, kwargs: Kwargs) -> Tensor:
    """The loss of this rank's batch at the module's own parameters, by its own forward with all of its hooks.

    The criterion is given whole outputs, for which it need know nothing of shards (``loss_parallel``).
    """
    with torch.no_grad(), seeded_rng(loss.seed), restored(loss.model):
        handle = loss.model.module.register_forward_hook(lambda module, args, output: _whole(output))
        try:
            value: Tensor = _whole(loss.model(*args, **kwargs))
        except Exception as error:
            if isinstance(error, AlphaFuncError | torch.OutOfMemoryError):
                raise
            raise CaptureError(
                "the module's own forward, with which the captured program is compared at its first call, raised "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            handle.remove()
            reshard(loss.model)
    return value


def _whole(output: Any) -> Any:
    """An output of a module, its DTensors whole."""
    if not shards.any_sharded(tree.leaves(output)):
        return output
    return tree.map(lambda leaf: leaf.full_tensor() if shards.is_sharded(leaf) else leaf, output)


def own_precisions(module: nn.Module, *, of_gradients: bool = False) -> set[torch.dtype]:
    """What ``fully_shard`` computes in, and reduces gradients in, by its mixed-precision policy."""
    found = [torch_private.fsdp_dtypes(part) for part in module.modules()]
    return {dtype for pair in found for dtype in (pair if of_gradients else pair[:1]) if dtype is not None}
