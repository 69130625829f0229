"""What the ranks of a process group tell each other before they add anything up.

An exchange is one all_gather of fourteen float64 numbers of each rank: how it fares, where it is in the program, and
what it says there. So an error or Ctrl-C on one rank is known to all at once, and so is a rank that is elsewhere.

Before they measure, the ranks agree on the parameters and the direction by three numbers of a vector x: ‖x‖² and two
products wᵀx with fixed random w. Where x differs by δ between two ranks, |wᵀδ| < ε‖x‖ has a probability of the order of
ε‖x‖/‖δ‖; norms alone are the same for −g/‖g‖ of any g.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from alpha_func import tree
from alpha_func.errors import DistributedError
from alpha_func.shards import attempt, is_sharded
from alpha_func.tree import Tree

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Group: TypeAlias = "ProcessGroup | None"  # None is the default group
IDENTITY = 8  # numbers say what must be the same on all ranks
WIDTH = IDENTITY + 4  # the most numbers that a rank says
_WELL, _FAILED, _INTERRUPTED = 0.0, 1.0, 2.0
_ALIKE = 1e-6  # of the norm: other hardware rounds alike to 1e-7
_MUST_BE_ALIKE = (
    ([0], "different settings", "use the same function, reduction, weight, strategy and train mode"),
    ([1], "params with different names, shapes, dtypes or order", "build the same module on every rank"),
    ([2, 3, 4], "different params", "broadcast the params of one rank, as DistributedDataParallel does"),
    (
        [5, 6, 7],
        "a different direction",
        "make it from the same gradient on every rank, such as data_parallel_gradient's",
    ),
)
_BLOCK = 2**16
_OVER = object()


def exchange(where: str, own: Callable[[], Sequence[float]], group: Group = None) -> Tensor:
    """What every rank says, shape (ranks, WIDTH), float64 on the CPU; what a rank does not say is 0.

    Args:
        where: in the program; the same on all ranks.
        own: the numbers of this rank. What it raises is told to the others first.
        group: a process group; None: the default one.

    Raises:
        DistributedError: a rank failed, was interrupted, is elsewhere, or did not come within the group's timeout; no
            group was initialised, or this rank is none of it.
    """
    _require_member(group)
    try:
        numbers = [_WELL, number_of(where), *own()]
    except DistributedError:  # the others know
        raise
    except BaseException as error:
        with suppress(DistributedError):  # the others are gone too: this rank's own error says more
            _gathered([_INTERRUPTED if isinstance(error, KeyboardInterrupt) else _FAILED], group)
        raise
    table = _gathered(numbers, group)
    fares, places = table[:, 0], table[:, 1]
    for what, others in (
        ("failed: its own error says why", fares == _FAILED),
        ("was interrupted (Ctrl-C): there is no result", fares == _INTERRUPTED),
        (
            f"is not at {where}, where this rank is: every rank must make the same calls, with as many batches as the "
            "others where all take them together",
            places != places[dist.get_rank(group)],
        ),
    ):
        if others.any():
            raise DistributedError(f"{_named(others, group)} {what}")
    return table[:, 2:]


def agree(settings: str, vectors: Callable[[], tuple[Tree, Tree]], group: Group = None) -> None:
    """Refuse parameters, a direction (None where there is none) or settings that are not the same on every rank.

    Raises:
        DistributedError: they differ, or as ``exchange``.
    """
    require_alike(exchange("the beginning", lambda: identity(settings, *vectors()), group), group)


def identity(settings: str, params: Tree, direction: Tree) -> list[float]:
    """Eight numbers that are the same on two ranks where params, direction and settings are."""
    layout = [(name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in tree.named_leaves(params)]
    return [number_of(settings), number_of(str(layout)), *_seen(params), *_seen(direction)]


def require_alike(identities: Tensor, group: Group) -> None:
    """Refuse the identities of ranks, a row each, that are not the same.

    Raises:
        DistributedError: which ranks differ from the first, and in what.
    """
    for columns, what, remedy in _MUST_BE_ALIKE:
        numbers = identities[:, columns]
        first = numbers[0]
        bounds = _ALIKE * torch.stack([first[0], first[0].sqrt(), first[0].sqrt()]) if len(columns) == 3 else 0.0
        alike = (numbers == first) | (numbers.isnan() & first.isnan()) | ((numbers - first).abs() <= bounds)
        others = ~alike.all(1)
        if others.any():
            leader = _named(torch.arange(len(others)) == 0, group)
            raise DistributedError(f"{_named(others, group)} has {what} than {leader}: {remedy}")


def in_lockstep(batches: Iterable[object], group: Group = None) -> Iterator[Any]:
    """The batches of this rank, each when all ranks have one.

    Raises:
        DistributedError: a rank has fewer batches than another; or as ``exchange``.
    """
    iterator = iter(batches)
    for taken in count():
        batch = next(iterator, _OVER)
        here = float(batch is not _OVER)
        more = exchange("a batch", partial(list, (here,)), group)[:, 0] > 0
        if not more.any():
            return
        if not more.all():
            raise DistributedError(
                f"{_named(~more, group)} has only {taken} batches, and {_named(more, group)} has more: all ranks take "
                "their batches together (lockstep=True); give each the same number, such as by a DistributedSampler"
            )
        yield batch


@dataclass(frozen=True)
class Idle:
    """What a rank that has no batch left takes when the others take one: it gathers with them, and weighs nothing."""

    batch: object


def all_take_part(batches: Iterable[object], group: Group = None) -> Iterator[Any]:
    """The batches of this rank, and ``Idle`` ones until no rank has any: its own last, or zeros like another rank's."""
    iterator, last = iter(batches), _OVER
    while True:
        batch = next(iterator, _OVER)
        more = exchange("a batch", partial(list, (float(batch is not _OVER), float(last is _OVER))), group)
        if not (more[:, 0] > 0).any():
            return
        if ((more[:, 0] == 0) & (more[:, 1] > 0)).any():
            like = _zeros_like_one_of(batch, group)
            last = like if last is _OVER else last
        if batch is _OVER:
            yield Idle(last)
        else:
            last = batch
            yield batch


def _zeros_like_one_of(batch: object, group: Group) -> object:
    """A batch of zeros, as large as that of the first rank which has one."""

    def described(leaf: object) -> object:
        return ("a tensor", tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf

    leaves, structure = tree.flatten(batch) if batch is not _OVER else (None, None)
    own = None if leaves is None else [described(leaf) for leaf in leaves]
    found, structure = next(each for each in gathered_objects((own, structure), group) if each[0] is not None)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    made = [torch.zeros(x[1], dtype=x[2], device=device) if _is_described(x) else x for x in found]
    return tree.unflatten(made, structure)


def _is_described(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and value[0] == "a tensor"


def _seen(x: Tree) -> list[float]:
    """‖x‖² and two products with fixed random vectors, on any device the same, of what no rank has a shard of; zeros
    for None."""
    found = torch.zeros(3, dtype=torch.float64)
    scales = torch.Generator().manual_seed(1)
    for leaf in tree.leaves(x) if x is not None else ():
        if is_sharded(leaf):
            continue
        real = torch.view_as_real(leaf.detach()) if leaf.is_complex() else leaf.detach()
        real = real.cpu() if real.device.type == "mps" else real  # Apple's has no float64
        for block in real.reshape(-1).split(_BLOCK):
            scale = float(torch.randn((), generator=scales))
            wide = block.double()
            numbers = torch.cat([wide.dot(wide)[None], scale * (_fixed(wide.device)[:, : len(wide)] @ wide)])
            found = found.to(wide.device) + numbers
    return [float(number) for number in found.tolist()]


@cache
def _fixed(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, _BLOCK, generator=generator, dtype=torch.float64).to(device)


def gathered_objects(own: object, group: Group) -> list[Any]:
    """What every rank has, small and picklable."""
    every: list[object] = [None] * dist.get_world_size(group)
    attempt(lambda: dist.all_gather_object(every, own, group=group))
    return every


def gathered(own: Tensor, group: Group) -> Tensor:
    """The vectors of all ranks, of one length, a row each, on the CPU."""
    device = torch.accelerator.current_accelerator() if dist.get_backend(group) == "nccl" else None
    own = own.to(device) if device is not None else own
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    attempt(lambda: dist.all_gather(every, own, group=group))
    return torch.stack(every).cpu()


def number_of(text: str) -> float:
    """48 bits of a text's hash, which a float64 holds."""
    return float(int.from_bytes(sha256(text.encode()).digest()[:6], "big"))


def _named(chosen: Tensor, group: Group) -> str:
    """Ranks of a group by their global numbers: rank 3; ranks 0, 2 and 5."""
    ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
    numbers = [str(ranks[i]) for i in chosen.nonzero().flatten().tolist()]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 8:
        return f"each of {len(numbers)} ranks, {', '.join(numbers[:4])} among them,"
    return f"each of ranks {', '.join(numbers[:-1])} and {numbers[-1]}"


def _require_member(group: Group) -> None:
    if not dist.is_initialized():
        raise DistributedError(
            "no process group: call torch.distributed.init_process_group first, in every process (torchrun starts them)"
        )
    if dist.get_rank(group) < 0:
        raise DistributedError(f"rank {dist.get_rank()} is not in the group: call this on the ranks of the group only")


def _gathered(numbers: list[float], group: Group) -> Tensor:
    return gathered(torch.tensor(numbers + [0.0] * (WIDTH + 2 - len(numbers)), dtype=torch.float64), group)
