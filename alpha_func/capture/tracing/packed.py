"""Sequences of several lengths, packed (``torch.nn.utils.rnn``), as they get into a recording.

A packed sequence is a batch step by step, without what is padded: at step t it has the n_t rows that have not ended.
How many they are decides what is called, so n_0 ≥ n_1 ≥ … are read, and a program is for these.

    torch.nn.utils.rnn               its functions, which TorchDynamo leaves out, are traced like any other
    torch._pack_padded_sequence      rows are looked up: (steps, rows, *) -> (Σ n_t, *)
    torch._pad_packed_sequence       the other way round
    torch.lstm, torch.gru, …         PyTorch's own loop of cells, which reads n_t where it is called
"""

from contextlib import nullcontext
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import rnn

from alpha_func import torch_private, tree
from alpha_func.calls import Args, Function, Kwargs
from alpha_func.capture.tracing.outside import outside
from alpha_func.torch_private import TorchDispatchMode


def pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """``torch._pack_padded_sequence``."""
    of_rows = lengths.tolist()
    x = x.transpose(0, 1) if batch_first else x
    return rows_in_steps(x, of_rows), torch.tensor(turned(of_rows))


def pad(data: Tensor, sizes: Tensor, batch_first: bool, value: float, steps: int) -> tuple[Tensor, Tensor]:
    """``torch._pad_packed_sequence``."""
    of_steps = sizes.tolist()
    x = steps_of_rows(data, of_steps, value, steps)
    return x.transpose(0, 1) if batch_first else x, torch.tensor(turned(of_steps))


def recurrent(kernel: str, data: Tensor, sizes: Tensor, *rest: object) -> Any:
    """``torch.lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu`` of a packed sequence."""
    return over_steps(kernel, data, sizes.tolist(), *rest)


def turned(counts: list[int]) -> list[int]:
    """How many rows have more than t steps, by their lengths; of such sizes, the lengths."""
    return [sum([count > t for count in counts]) for t in range(counts[0])]


# Each of these is one call of a recording.


def rows_in_steps(x: Tensor, lengths: list[int]) -> Tensor:
    """The rows of a padded batch that have not ended, step by step."""
    packed, _ = _places(x.shape[0], lengths)
    return x.flatten(0, 1).index_select(0, torch.tensor(packed, device=x.device))


def steps_of_rows(data: Tensor, sizes: list[int], value: float, steps: int) -> Tensor:
    """The padded batch of such rows."""
    packed, shape = _places(steps, turned(sizes))
    padded = torch.full((shape.numel(), *data.shape[1:]), value, dtype=data.dtype, device=data.device)
    return padded.index_copy(0, torch.tensor(packed, device=data.device), data).reshape(*shape, *data.shape[1:])


def over_steps(kernel: str, data: Tensor, sizes: list[int], *rest: object) -> Any:
    """A recurrent kernel on so many rows at each step."""
    with outside():
        numbers = torch.tensor(sizes)
    with _Numbers(), torch.backends.cudnn.flags(enabled=False):  # fused
        return getattr(torch, kernel)(data, numbers, *rest)


class _Numbers(TorchDispatchMode):
    """Tensors that have values among those that have none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        tensors = [each for each in tree.leaves((args, kwargs or {})) if isinstance(each, Tensor)]
        plain = tensors and all(type(each) is Tensor for each in tensors)
        with torch_private.modes_disabled() if plain else nullcontext():
            return func(*args, **(kwargs or {}))


def _places(steps: int, lengths: list[int]) -> tuple[list[int], torch.Size]:
    """Where packed rows are among the padded, and how many steps and rows these are."""
    with outside():
        every = torch.arange(steps * len(lengths)).reshape(steps, len(lengths))
        packed, _ = torch._VF._pack_padded_sequence(every, torch.tensor(lengths), False)
        return packed.tolist(), every.shape


CALLS = (rows_in_steps, steps_of_rows, over_steps)
KERNELS = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
INSTEAD: dict[Any, Function] = {torch._VF._pack_padded_sequence: pack, torch._VF._pad_packed_sequence: pad}
# Their own code, by other names than TorchDynamo knows.
TRACED: dict[Function, Function] = {
    function: FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    for function in (rnn.pack_padded_sequence, rnn.pad_packed_sequence)
}
