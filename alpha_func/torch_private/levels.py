"""Transforms, modes and levels of differentiation that a call is under, and what they wrap."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, _tensor_str
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    get_unwrapped,
    is_functorch_wrapped_tensor,
    pop_dynamic_layer_stack_and_undo_to_depth,
)
from torch.autograd import forward_ad


@contextmanager
def saved_tensors_hooks_allowed() -> Iterator[None]:
    """Hooks on what a graph saves (checkpointing), which a transform of torch.func around forbids."""
    autograd = torch._C._autograd
    message = autograd._saved_tensors_hooks_get_disabled_error_message()
    autograd._saved_tensors_hooks_enable()
    try:
        yield
    finally:
        if message is not None:
            autograd._saved_tensors_hooks_disable(message)


@contextmanager
def printed_by_type() -> Iterator[None]:
    """Tensors are printed without their values: a call of a packet prints them for each overload that it is not of, and
    under forward mode PyTorch cannot print a fake one (an internal assertion, which leaves its modes broken)."""
    own = _tensor_str._str
    _tensor_str._str = lambda tensor, **options: f"{type(tensor).__name__}(...)"
    try:
        yield
    finally:
        _tensor_str._str = own


def plain_beneath(tensor: Tensor) -> Tensor:
    """The tensor beneath the transforms of torch.func."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def forward_level() -> int:
    """How many levels of forward-mode differentiation are open, less one."""
    return int(forward_ad._current_level)


def is_forward_over_forward() -> bool:
    """Whether torch.func takes forward mode of forward mode."""
    return sum(each.key() == TransformType.Jvp for each in get_interpreter_stack() or ()) > 1


def close_levels(depth: int, level: int) -> None:
    """Close what a graph that failed half-way has left open: levels of torch.func above ``depth``, of forward mode."""
    pop_dynamic_layer_stack_and_undo_to_depth(depth)
    while forward_ad._current_level > level:
        forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]
