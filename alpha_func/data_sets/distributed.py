"""The quadratic of a data set that is spread over processes: each its shard, one reduction of a handful of numbers.

    q = Σ_r w_r·q_r / Σ_r w_r     over the ranks r of a process group, q_r and w_r of rank r's shard

What goes over the network is a vector of eleven float64 numbers, whatever the size of the model: weight and weighted
quadratic, whether a rank failed, and norms of parameters and direction, which must be the same on every rank.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, func

from alpha_func import tree
from alpha_func.data_sets.accumulate import accumulate
from alpha_func.data_sets.additivity import Passed, PointedOut
from alpha_func.data_sets.batches import arguments
from alpha_func.data_sets.weights import Weight, weighing
from alpha_func.errors import DistributedError
from alpha_func.losses.sharding import refuse_dtensor
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import check_params, require_callable, scalar_loss
from alpha_func.tree import Tree

Group = Any  # a torch.distributed.ProcessGroup; None is the default group
_ALIKE = 1e-10  # relative variance of a norm over the ranks; rounding gives 1e-15, another gradient 1e-4 and more


class _Part(NamedTuple):
    """What a rank adds: its weight (1 for a sum) and weighted quadratic; and what must agree."""

    is_sum: float
    weight: float
    value: float
    slope: float
    curvature: float
    norms: tuple[float, float] = (0.0, 0.0)  # of parameters and direction, squared


def all_reduce(quadratic: Quadratic | None, weight: float | None, group: Group = None) -> Quadratic:
    """The quadratic of the data of all ranks, from that of each rank's shard.

        q = Σ_r w_r·q_r / Σ_r w_r, or Σ_r q_r for a loss that is a sum

    Every rank of the group must call it, one without data too. Parameters, direction and loss must be the same on all.

    Args:
        quadratic: of this rank's shard; what it holds does not matter where ``weight`` is 0 (None will do).
        weight: what the mean of the shard's loss is over, as ``accumulate(loss).total`` gives it; None on
            every rank for a loss that is a sum.
        group: a process group; None: the default one.

    Returns:
        The same Quadratic on every rank, 0-d, float64, on the CPU.

    Raises:
        DistributedError: a rank failed or did not come within the group's timeout (of ``init_process_group``), or no
            group was initialised.
        TypeError, ValueError: an argument is not as above, on this rank; the others then raise a DistributedError. All
            weights are 0, or only some of them None.

    >>> import tempfile
    >>> store = tempfile.NamedTemporaryFile()
    >>> dist.init_process_group("gloo", init_method=f"file://{store.name}-store", rank=0, world_size=1)
    >>> all_reduce(Quadratic(*torch.tensor([3.0, -2.0, 4.0])), 10.0).alpha
    tensor(0.5000, dtype=torch.float64)
    >>> dist.destroy_process_group()
    """
    return _reduced(lambda: _part(quadratic, weight), group)


def data_parallel_quadratic(
    loss: Callable[..., Tensor],
    *,
    weight: Weight | str | None = None,
    reduction: str | None = None,
    strategy: StrategyLike | None = None,
    group: Group = None,
) -> Callable[..., Quadratic]:
    """``accumulate`` over the shards of all ranks, and ``all_reduce``.

    A rank whose data or loss raises tells the others before it raises: none waits for the timeout. Parameters and
    direction that differ between ranks are refused, by their norms: a direction of one rank's own gradient, for one.

    Args:
        loss, weight, reduction, strategy: as for ``accumulate``; a module under DistributedDataParallel is unwrapped by
            ``functional_loss``.
        group: as for ``all_reduce``.

    Returns:
        ``(params, direction, batches) -> Quadratic``, where batches are this rank's, possibly none.

    Raises:
        As ``accumulate`` and ``all_reduce``.
    """
    accumulated = accumulate(loss, weight=weight, reduction=reduction, strategy=strategy)

    def quadratic(params: Tree, direction: Tree, batches: Iterable[Any]) -> Quadratic:
        def part() -> _Part:
            total = accumulated.total(params, direction, batches)
            return _part(total.quadratic, total.weight, params, direction)

        return _reduced(part, group)

    return quadratic


def data_parallel_gradient(
    loss: Callable[..., Tensor],
    *,
    weight: Weight | str | None = None,
    reduction: str | None = None,
    group: Group = None,
) -> Callable[..., Tree]:
    """The gradient of the data of all ranks, each having its shard.

        g = Σ_b w_b·g_b / Σ_b w_b over the batches b of all ranks

    Args:
        loss, weight, reduction: as for ``accumulate``.
        group: as for ``all_reduce``.

    Returns:
        ``(params, batches) -> g``, the same on every rank, with the structure, shapes and dtypes of params; summed in
        float32 or better. A gradient of each batch, and one reduction the size of the parameters.

    Raises:
        As ``accumulate`` and ``all_reduce``.
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")
    weigh = weighing(loss, weight, reduction)
    passed: Passed = set()

    def gradient(params: Tree, batches: Iterable[Any]) -> Tree:
        grads: list[Tensor] = []

        def part() -> _Part:
            check_params(params)
            leaves = tree.leaves(params)
            grads.extend(torch.zeros_like(leaf, dtype=tree.accumulator_dtype(leaf.dtype)) for leaf in leaves)
            fresh, total = weigh.fresh(), 0.0
            point_out = PointedOut(loss, fresh, passed)
            for batch in batches:
                args, kwargs = arguments(batch)
                w = fresh(args, kwargs)
                if w:
                    found, value = func.grad_and_value(scalar_loss(loss, args, kwargs))(params)
                    point_out(params, args, kwargs, value)
                    for sum_, leaf in zip(grads, tree.leaves(found), strict=True):
                        sum_.add_(leaf, alpha=w)
                total += w
            nothing = Quadratic(*torch.zeros(3))
            return _part(nothing, total if weigh.mean else None, params)

        agreed = _agreed(part, group)
        whole = agreed.weight if weigh.mean else 1.0
        handles = [_attempt(partial(dist.all_reduce, sum_, group=group, async_op=True)) for sum_ in grads]
        for handle in handles:
            _attempt(handle.wait)
        like = zip(grads, tree.leaves(params), strict=True)
        return tree.unflatten([sum_.div_(whole).to(leaf.dtype) for sum_, leaf in like], tree.structure(params))

    return gradient


def _part(quadratic: Quadratic | None, weight: float | None, params: Tree = None, direction: Tree = None) -> _Part:
    norms = [float(tree.vdot(x, x)) if x is not None else 0.0 for x in (params, direction)]
    if weight is not None and not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight is {weight}: expected a finite number of at least 0, or None for a sum")
    if weight == 0:
        return _Part(0.0, 0.0, 0.0, 0.0, 0.0, (norms[0], norms[1]))
    if not isinstance(quadratic, Quadratic) or any(number.ndim for number in quadratic):
        got = tuple(quadratic.value.shape) if isinstance(quadratic, Quadratic) else type(quadratic).__name__
        raise TypeError(f"quadratic must be a Quadratic of shape (), got {got}; one without data passes weight=0")
    for name, number in zip(Quadratic._fields, quadratic, strict=True):
        refuse_dtensor(f"quadratic.{name}", number)  # it would be reduced over its own mesh and then over the group
    w = 1.0 if weight is None else float(weight)
    value, slope, curvature = (w * float(number) for number in quadratic)
    return _Part(float(weight is None), w, value, slope, curvature, (norms[0], norms[1]))


def _reduced(part: Callable[[], _Part], group: Group) -> Quadratic:
    total = _agreed(part, group)
    w = 1.0 if total.is_sum else total.weight
    return Quadratic(*(torch.tensor(x / w, dtype=torch.float64) for x in (total.value, total.slope, total.curvature)))


def _agreed(part: Callable[[], _Part], group: Group) -> _Part:
    """The sum of every rank's part; an error of one rank is an error on all of them, at once."""
    if not dist.is_initialized():
        raise DistributedError(
            "no process group: call torch.distributed.init_process_group first, in every process (torchrun starts them)"
        )
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    try:
        mine = part()
    except Exception:
        with suppress(DistributedError):  # the others are gone too: this rank's own error says more
            _summed([0.0] * 5 + [1.0, float(rank)] + [0.0] * 4, group)
        raise
    squares = [x for norm in mine.norms for x in (norm, norm * norm)]
    is_sum, weight, *numbers, failed, failed_rank, θ, θθ, d, dd = _summed([*mine[:5], 0.0, 0.0, *squares], group)
    total = _Part(is_sum, weight, numbers[0], numbers[1], numbers[2])
    if failed:
        who = f"rank {failed_rank:.0f}" if failed == 1 else f"{failed:.0f} of {ranks} ranks"
        raise DistributedError(f"{who} failed before the reduction: its own error says why")
    for name, first, second in (("params", θ, θθ), ("direction", d, dd)):
        if ranks * second - first * first > _ALIKE * first * first:  # Cauchy and Schwarz: 0 where all are the same
            raise DistributedError(
                f"{name} differs between ranks (its norm does): give every rank the same, such as a direction made of "
                "data_parallel_gradient"
            )
    if 0 < total.is_sum < ranks:
        raise ValueError("weight is None on some ranks only: a loss is a sum on all ranks or on none")
    if not total.weight:
        raise ValueError("the weights of all ranks are 0: there is no example to take the mean over")
    return total


def _summed(numbers: list[float], group: Group) -> list[float]:
    on = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    vector = torch.tensor(numbers, dtype=torch.float64, device=on)
    _attempt(lambda: dist.all_reduce(vector, group=group))
    return vector.tolist()


def _attempt(collective: Callable[[], Any]) -> Any:
    try:
        return collective()
    except RuntimeError as error:
        raise DistributedError(
            f"rank {dist.get_rank()} waited for the others in vain: one of them failed or hangs, see its output; the "
            f"process group cannot be used again ({str(error).splitlines()[0]})"
        ) from error
