"""The quadratic of a data set that is spread over processes: each its shard, and a handful of numbers exchanged.

    q = Σ_r w_r·q_r / Σ_r w_r     over the ranks r of a process group, q_r and w_r of rank r's shard

What goes over the network is fourteen numbers of each rank, whatever the size of the model: once before a data set is
gone through, to agree on parameters, direction and settings, and once after it, with weight and weighted quadratic. Of
other verbs, which may have more numbers, these are a third message.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, func

from alpha_func import tree
from alpha_func.capture.sharded.engine import has_shards
from alpha_func.data_sets.accumulate import accumulate
from alpha_func.data_sets.additive import Verb, name_of, numbers, operands, require_own, rows, with_numbers
from alpha_func.data_sets.additivity import AdditivityCheck, Passed, modes
from alpha_func.data_sets.batches import arguments
from alpha_func.data_sets.ranks import (
    WIDTH,
    Group,
    agree,
    all_take_part,
    exchange,
    gathered,
    gathered_objects,
    in_lockstep,
    number_of,
)
from alpha_func.data_sets.weights import Weighing, Weight, weighing
from alpha_func.errors import DistributedError
from alpha_func.shards import attempt, layout
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import check_params, require_callable, scalar_loss
from alpha_func.tree import Tree

_NO_DATA = 0.0  # where others say what kind of result they have
_FEW = WIDTH - 2  # numbers of a result go with the weight and the kind


def all_reduce(result: object, weight: float | None, group: Group = None) -> Any:
    """The quadratic of the data of all ranks, from that of each rank's shard; or what else is linear in the loss.

        q = Σ_r w_r·q_r / Σ_r w_r, or Σ_r q_r for a loss that is a sum

    Every rank of the group must call it, one without data too. Parameters, direction and loss must be the same on all.

    Args:
        result: a Quadratic of this rank's shard, or what another verb gives (``accumulate``); None where there was no
            data.
        weight: what the mean of the shard's loss is over, as ``accumulate(loss).total`` gives it; None on every rank
            for a loss that is a sum.
        group: a process group; None: the default one.

    Returns:
        The same on every rank, float64, on the CPU.

    Raises:
        DistributedError: a rank failed, was interrupted (Ctrl-C), calls something else, or did not come within the
            group's timeout (of ``init_process_group``), or no group was initialised.
        TypeError, ValueError: an argument is not as above, on this rank; the others then raise a DistributedError. All
            weights are 0, or only some of them None.

    >>> import tempfile
    >>> from alpha_func import Quadratic
    >>> store = tempfile.NamedTemporaryFile()
    >>> dist.init_process_group("gloo", init_method=f"file://{store.name}-store", rank=0, world_size=1)
    >>> all_reduce(Quadratic(*torch.tensor([3.0, -2.0, 4.0])), 10.0).alpha
    tensor(0.5000, dtype=torch.float64)
    >>> dist.destroy_process_group()
    """
    return _reduced("all_reduce", lambda: (result, weight), group)


def data_parallel_quadratic(
    loss: Callable[..., Tensor],
    *,
    verb: Verb | None = None,
    weight: Weight | str | None = None,
    reduction: str | None = None,
    strategy: StrategyLike | None = None,
    lockstep: bool = False,
    group: Group = None,
) -> Callable[..., Any]:
    """``accumulate`` over the shards of all ranks, and ``all_reduce``.

    A rank whose data or loss raises, or where Ctrl-C is pressed, tells the others before it raises: no rank waits for
    the timeout, and none continues with a part of the sum. Ranks that differ are refused before their data is gone
    through: in the parameters (values, names, shapes, order), in the direction (such as that of a rank's own gradient),
    in the verb, reduction, weight, strategy or the modes of layers.

    Of sharded parameters (DTensors, of a captured loss) all ranks take their batches together, whatever ``lockstep``
    says, and one that has fewer takes part without weight. Ranks that share the shards of one model, as in tensor
    parallelism, are given the same batches.

    A guessed weight (see ``accumulate``) is checked between the batches of a rank, not between ranks: pass ``weight``.

    Args:
        loss, verb, weight, reduction, strategy: as for ``accumulate``; a module under DistributedDataParallel is
            unwrapped by ``functional_loss``.
        lockstep: the loss itself communicates (it gathers, or synchronises a normalisation), so that all ranks must
            take their batches together: a rank with fewer is then an error on all, for one more exchange a batch.
            Left out, ranks may have as many batches as they like.
        group: as for ``all_reduce``.

    Returns:
        ``(params, direction, batches) -> Quadratic``, or what the verb gives, where batches are this rank's, possibly
        none.

    Raises:
        As ``accumulate`` and ``all_reduce``.
    """
    accumulated = accumulate(loss, verb=verb, weight=weight, reduction=reduction, strategy=strategy)
    settings = _settings(weighing(loss, weight, reduction), strategy)

    def quadratic(params: Tree, direction: Tree, batches: Iterable[object]) -> Any:
        of_ranks = group if group is not None else _group_of(params)

        def vectors() -> tuple[Tree, Tree]:
            check_params(params)
            return params, operands(params, direction)

        def own() -> tuple[object, float | None]:
            if has_shards(params, loss):
                mine: Iterable[object] = all_take_part(batches, of_ranks)
            else:
                mine = in_lockstep(batches, of_ranks) if lockstep else batches
            total = accumulated.total(params, direction, mine)
            if not total.complete:
                raise KeyboardInterrupt
            return total.result, total.weight

        agree(f"{name_of(verb)}, {settings}, {lockstep}, {modes(loss)}", vectors, of_ranks)
        return _reduced("the end of its batches", own, of_ranks)

    return quadratic


def data_parallel_gradient(
    loss: Callable[..., Tensor],
    *,
    weight: Weight | str | None = None,
    reduction: str | None = None,
    lockstep: bool = False,
    group: Group = None,
) -> Callable[..., Tree]:
    """The gradient of the data of all ranks, each having its shard.

        g = Σ_b w_b·g_b / Σ_b w_b over the batches b of all ranks

    Args:
        loss, weight, reduction: as for ``accumulate``.
        lockstep: as for ``data_parallel_quadratic``.
        group: as for ``all_reduce``.

    Returns:
        ``(params, batches) -> g``, the same on every rank, with the structure, shapes and dtypes of params; summed in
        float32 or better. A gradient of each batch, and one reduction the size of the parameters, once all agree.

    Raises:
        As ``accumulate`` and ``all_reduce``.
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")
    weigh = weighing(loss, weight, reduction)
    settings = _settings(weigh, None)
    passed: Passed = set()

    def gradient(params: Tree, batches: Iterable[object]) -> Tree:
        sums: list[Tensor] = []

        def vectors() -> tuple[Tree, Tree]:
            check_params(params)
            return params, None

        def own() -> list[float]:
            sums.extend(
                torch.zeros_like(leaf, dtype=tree.accumulator_dtype(leaf.dtype)) for leaf in tree.leaves(params)
            )
            fresh, total = weigh.fresh(), 0.0
            check = AdditivityCheck(loss, fresh, passed)
            for batch in in_lockstep(batches, group) if lockstep else batches:
                args, kwargs = arguments(batch)
                w = fresh(args, kwargs)
                if w:
                    found, value = func.grad_and_value(scalar_loss(loss, args, kwargs))(params)
                    check(params, args, kwargs, value)
                    for sum_, leaf in zip(sums, tree.leaves(found), strict=True):
                        sum_.add_(leaf, alpha=w)
                total += w
            return [total if weigh.mean else math.nan]

        agree(f"gradient, {settings}, {lockstep}, {modes(loss)}", vectors, group)
        whole = _whole_weight(exchange("the end of its batches", own, group)[:, 0])
        handles = [attempt(partial(dist.all_reduce, sum_, group=group, async_op=True)) for sum_ in sums]
        for handle in handles:
            attempt(handle.wait)
        like = zip(sums, tree.leaves(params), strict=True)
        return tree.unflatten([sum_.div_(whole).to(leaf.dtype) for sum_, leaf in like], tree.structure(params))

    return gradient


def _group_of(params: Tree) -> Group:
    """The ranks that have shards of the parameters; None, the default group, where nothing is sharded."""
    meshes = [place.mesh for place in map(layout, tree.leaves(params)) if place is not None]
    mesh = max(meshes, key=lambda mesh: int(mesh.size()), default=None)
    if mesh is None or mesh.size() == dist.get_world_size():
        return None
    if mesh.ndim == 1:
        return mesh.get_group()
    raise ValueError(
        f"params are sharded over {mesh.size()} of {dist.get_world_size()} ranks, in a mesh of {mesh.ndim} dimensions: "
        "pass group=, the ranks over which the batches are spread"
    )


def _settings(weigh: Weighing, strategy: StrategyLike | None) -> str:
    """What ranks must have in common besides parameters and direction, as text that is the same in every process."""
    weight = getattr(weigh.weight, "__qualname__", type(weigh.weight).__name__)
    name = strategy if isinstance(strategy, str) else getattr(strategy, "name", getattr(strategy, "__name__", None))
    return f"{'mean' if weigh.mean else 'sum'}, {weight}, {name}"


def _reduced(where: str, own: Callable[[], tuple[object, float | None]], group: Group) -> object:
    """Σ w·result / Σ w over the ranks; numbers that are few go with the exchange that says how ranks fare."""
    result: object = None
    mine = torch.zeros(0, dtype=torch.float64)

    def said() -> list[float]:
        """A rank's weight, NaN for a sum, of what kind its result is, and its weighted numbers."""
        nonlocal result, mine
        result, weight = own()
        if weight is not None and not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight is {weight}: expected a finite number of at least 0, or None for a sum")
        if weight == 0 or (weight is None and result is None):
            result = None
            return [math.nan if weight is None else 0.0, _NO_DATA]
        require_own(result)
        w = 1.0 if weight is None else float(weight)
        mine = w * rows([result])[0].cpu()
        kind = number_of(f"{type(result).__name__} {[tuple(leaf.shape) for leaf in numbers(result)]}")
        return [math.nan if weight is None else w, kind, *(mine.tolist() if len(mine) <= _FEW else ())]

    table = exchange(where, said, group)
    whole, kinds = _whole_weight(table[:, 0]), table[:, 1]
    having = kinds != _NO_DATA
    if not having.any():
        raise ValueError("no rank has data: there is nothing to sum")
    if (kinds[having] != kinds[having][0]).any():
        raise DistributedError(
            "the results of the ranks are of different functions or shapes: make the same call on all"
        )
    if not having.all():  # the others learn what it is that is summed
        result = next(each for each in gathered_objects(tree.map(_on_cpu, result), group) if each is not None)
    count = sum(leaf.numel() for leaf in numbers(result))
    mine = mine if len(mine) else torch.zeros(count, dtype=torch.float64)
    each = table[:, 2 : 2 + count] if count <= _FEW else gathered(mine, group)
    return with_numbers(result, each.sum(0) / whole)


def _on_cpu(leaf: object) -> object:
    return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf


def _whole_weight(weights: Tensor) -> float:
    """Σ w over the ranks; 1 for a sum, whose weights are NaN."""
    of_sums = weights.isnan()
    if of_sums.all():
        return 1.0
    if of_sums.any():
        raise ValueError("weight is None on some ranks only: the loss must be a sum on all ranks or on none")
    if not weights.any():
        raise ValueError("the weights of all ranks are 0: there is no example to take the mean over")
    return float(weights.sum())
