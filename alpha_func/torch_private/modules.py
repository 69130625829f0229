"""What a module holds beside its parameters and buffers: hooks on all modules, and the marks of ``fully_shard``."""

import sys
from typing import Any

import torch

GLOBAL_HOOKS: tuple[dict[int, Any], ...] = (
    torch.nn.modules.module._global_forward_hooks,
    torch.nn.modules.module._global_forward_pre_hooks,
)
GLOBAL_BACKWARD_HOOKS: tuple[dict[int, Any], ...] = (
    torch.nn.modules.module._global_backward_hooks,
    torch.nn.modules.module._global_backward_pre_hooks,
)
# What ``fully_shard`` leaves in a module for Dynamo, which then guards nothing of it.
FSDP_MARKS = frozenset(("_is_fsdp_managed_module", "_fsdp_use_orig_params"))


def fsdp_computes_in(module: torch.nn.Module) -> torch.dtype | None:
    """The dtype that ``fully_shard`` casts the parameters of a module to, if it does."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(module, fsdp.FSDPModule):
        return None
    found: torch.dtype | None = module._get_fsdp_state()._mp_policy.param_dtype
    return found
