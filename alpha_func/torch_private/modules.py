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


def fsdp_dtypes(module: torch.nn.Module) -> tuple[torch.dtype | None, torch.dtype | None]:
    """The dtypes that ``fully_shard`` casts parameters of a module to, and their gradients; None where it does not."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(module, fsdp.FSDPModule):
        return None, None
    policy = module._get_fsdp_state()._mp_policy
    return policy.param_dtype, policy.reduce_dtype
