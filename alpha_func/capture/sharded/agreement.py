"""Ranks agree before any of them gathers: alone, a rank would wait for the others, or be given what they gather.

One reduction of a few numbers over each dimension of the mesh: whether all are well, whether all are about to gather
the same in the same order, and the most that any rank says of its own.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from alpha_func.errors import DistributedError
from alpha_func.shards import attempt, device_of, groups, meshes

T = TypeVar("T")
_INTERRUPTED = 2.0


class Found(NamedTuple):
    """What a rank brings to an agreement.

    text: the same on all ranks, or they are refused.    most: numbers, of which all are given the largest.
    """

    text: str
    most: Sequence[float]


class Agreement:
    """Agreements over the groups of a mesh, one for each of its dimensions.

    Args:
        groups: process groups, the same on all of their ranks.
        device: what their backend takes.
    """

    def __init__(self, groups: Sequence[Any], device: torch.device):
        self._groups, self._device = groups, device

    def __call__(self, where: str, own: Callable[[], tuple[Found, T]]) -> tuple[list[float], T]:
        """The most of each number, and what this rank found besides; an error of one rank is one of all.

        Args:
            where: in the program, for messages.
            own: what this rank does alone; it must not communicate.

        Raises:
            DistributedError: another rank failed, is elsewhere, or did not come within the timeout.
        """
        try:
            found, rest = own()
        except BaseException as error:
            bad = _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1.0
            with suppress(DistributedError):  # the others are gone too: this rank's own error says more
                self._most([bad, float(dist.get_rank()), 0.0, 0.0, *[0.0] * _ROOM])
            raise
        mark = float(int.from_bytes(sha256(f"{where}: {found.text}".encode()).digest()[:6], "big"))
        numbers = [*found.most, *[0.0] * (_ROOM - len(found.most))]
        bad, rank, high, low, *most = self._most([0.0, -1.0, mark, -mark, *numbers])
        if bad:
            what = "was interrupted (Ctrl-C)" if bad == _INTERRUPTED else "failed: its own error says why"
            raise DistributedError(f"rank {int(rank)} {what}; nothing was gathered")
        if high != -low:
            raise DistributedError(
                f"at {where}, the ranks are about to gather different parameters, or in a different order: every rank "
                "must make the same calls, with the same module, the same direction and batches of the same kind"
            )
        return most[: len(found.most)], rest

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> "Agreement":
        """That of the ranks which have some tensors, DTensors among them, together."""
        found = meshes(tensors)
        return cls(groups(found), device_of(found[0]))

    def mean(self, numbers: Sequence[float]) -> list[float]:
        """The means over all ranks."""
        count = math.prod(dist.get_world_size(group) for group in self._groups)
        return [total / count for total in self.sum(numbers)]

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all ranks."""
        total = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        for group in self._groups:
            attempt(partial(dist.all_reduce, total, group=group))
        return total.tolist()

    def _most(self, numbers: list[float]) -> list[float]:
        most = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        for group in self._groups:
            attempt(partial(dist.all_reduce, most, dist.ReduceOp.MAX, group=group))
        return most.tolist()


_ROOM = 5  # numbers that a rank may say
