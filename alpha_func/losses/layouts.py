"""What was found for calls of a layout, looked up in a microsecond.

The layout of a call is all of its signature that lies in tensors: types, dispatch keys, dtypes, devices,
``requires_grad``, shapes and strides. It is compared in C++, by what TorchDynamo's guards are made of.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from alpha_func.torch_private import laid_out_as, peek_interpreter_stack

T = TypeVar("T")
_KEPT = 8


class Layouts(Generic[T]):
    """The last few layouts that something was found for.

    >>> import torch
    >>> layouts = Layouts()
    >>> layouts.keep(["w"], [torch.ones(2)], lambda: "two")
    >>> layouts.find(["w"], [torch.ones(3)]) is None
    True
    """

    def __init__(self) -> None:
        self._kept: list[tuple[list[object], Callable[[list[object]], bool], T]] = []

    def find(self, names: list[object], tensors: list[object]) -> T | None:
        """What is kept for tensors of these names that are laid out so."""
        for known, alike, found in self._kept:
            if known == names and alike(tensors):
                return found
        return None

    def keep(self, names: list[object], tensors: Sequence[object], find: Callable[[], T]) -> None:
        """Keep what ``find`` gives for such tensors; nothing where they have no layout, or are under a transform."""
        alike = laid_out_as(tensors) if peek_interpreter_stack() is None else None
        if alike is not None:
            self._kept = [*self._kept[1 - _KEPT :], (names, alike, find())]  # a ragged last batch comes last
