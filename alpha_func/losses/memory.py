"""Which tensors lie in one another's memory."""

from bisect import bisect_left
from collections.abc import Iterable

from torch import Tensor

from alpha_func.torch_private import plain_beneath

NOWHERE = 0


class Memory:
    """The memory of some named tensors.

    >>> import torch
    >>> w = torch.ones(3, 2)
    >>> memory = Memory([("w", w)])
    >>> memory.owner(w.T[1]), memory.owner(w.clone())
    ('w', None)
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]):
        spans = sorted((*span, name) for name, tensor in named if (span := _span(tensor)) is not None)
        self._starts = [start for start, _, _ in spans]
        self._names: list[str] = [name for _, _, name in spans]
        self._ends: list[tuple[int, int]] = []  # the furthest end so far, and whose it is: spans may overlap
        for i, (_, end, _) in enumerate(spans):
            self._ends.append(max((end, i), self._ends[-1] if i else (end, i)))

    def owner(self, tensor: Tensor) -> str | None:
        """The name of one of the tensors that ``tensor`` shares memory with."""
        span = _span(tensor) if self._starts else None
        if span is None:
            return None
        at = bisect_left(self._starts, span[1]) - 1  # the last that starts before this one ends
        if at < 0 or self._ends[at][0] <= span[0]:
            return None
        return self._names[self._ends[at][1]]


def _span(tensor: Tensor) -> tuple[int, int] | None:
    """The first address of a tensor and the one after its last; None where it has no memory to look at."""
    tensor = plain_beneath(tensor)
    try:
        start = tensor.data_ptr()
    except RuntimeError:  # neither storage nor address: sparse, fake, nested
        return None
    if not start or not tensor.numel():
        return None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()


def addresses(tensors: Iterable[Tensor]) -> list[int] | None:
    """Where the memory of each begins; None where one has none to look at."""
    try:
        return [tensor.data_ptr() for tensor in tensors]
    except RuntimeError:
        return None


def storage(tensor: Tensor) -> int:
    """Where the storage of a tensor begins; NOWHERE for one without: sparse, fake, the zeros of a tangent."""
    try:
        return plain_beneath(tensor).untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return NOWHERE
