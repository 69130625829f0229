"""What the library uses of PyTorch that PyTorch does not promise to keep, in one room."""

from torch._C import _len_torch_dispatch_stack as dispatch_modes
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, peek_interpreter_stack

__all__ = [
    "dispatch_modes",
    "get_unwrapped",
    "is_functorch_wrapped_tensor",
    "peek_interpreter_stack",
]
