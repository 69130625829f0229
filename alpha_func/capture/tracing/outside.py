"""A call as it would be outside of the transforms and modes around it: plain tensors, one example of a batch."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from alpha_func import torch_private
from alpha_func.torch_private import FakeTensor


def is_outside() -> bool:
    """Whether there is neither a transform nor a mode around."""
    return (
        torch_private.peek_interpreter_stack() is None
        and not torch_private.dispatch_modes()
        and not torch.is_inference_mode_enabled()
    )


@contextmanager
def outside() -> Iterator[None]:
    """Outside of every transform and mode."""
    with ExitStack() as stack:
        stack.enter_context(torch_private.temporarily_clear_interpreter_stack())
        stack.enter_context(torch_private.modes_disabled())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


def plain(tensor: Tensor) -> Tensor:
    """An alias of the values beneath a transform, one example of what is batched; zeros where a batch has none."""
    found = _beneath(tensor)
    if found is None:
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return found.clone() if found.is_inference() else found.detach()


def stand_in(alias: Tensor) -> Tensor:
    """A tensor of the same layout and without memory: to guards, which read no value, the same."""
    made = torch.empty_strided(alias.shape, alias.stride(), dtype=alias.dtype, device=alias.device)
    made.untyped_storage().resize_(0)
    return made.requires_grad_(alias.requires_grad)


def values(tensor: Tensor) -> Tensor | None:
    """The values beneath a transform, one example of what is batched; None where there are none to compute with."""
    found = _beneath(tensor)
    return None if found is None or isinstance(found, FakeTensor) or found.is_meta else found.detach()


def _beneath(tensor: Tensor) -> Tensor | None:
    while torch_private.is_functorch_wrapped_tensor(tensor):
        dim = torch_private.maybe_get_bdim(tensor) if torch_private.is_batchedtensor(tensor) else None
        tensor = torch_private.get_unwrapped(tensor)
        if dim is not None:
            if tensor.shape[dim] == 0:
                return None
            tensor = tensor.select(dim, 0)
    return tensor
