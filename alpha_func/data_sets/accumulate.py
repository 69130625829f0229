"""The quadratic of a whole data set, and what else is linear in the loss: its numbers are sums over examples.

    w_b   the weight of batch b, what the mean of its loss is over          W = Σ_b w_b
    L(θ) = 1/W Σ_b w_b·L_b(θ)      dᵀg = 1/W Σ_b w_b·dᵀg_b      dᵀHd = 1/W Σ_b w_b·dᵀH_b d

One mini-batch's α* is noisy, and biased where the direction is made of the same examples: Tatzel, Wenger, Schneider and
Hennig, Debiasing Mini-Batch Quadratics for Applications in Deep Learning (ICLR 2025). The data set's is neither.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alpha_func.capture.sharded.engine import has_shards
from alpha_func.data_sets.additive import Verb, measure, rows, with_numbers
from alpha_func.data_sets.additivity import AdditivityCheck, Passed
from alpha_func.data_sets.batches import arguments
from alpha_func.data_sets.ranks import Idle
from alpha_func.data_sets.weights import Weighing, Weight, weighing
from alpha_func.errors import warn
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import require_callable
from alpha_func.tree import Tree

_RECENT = 64


class Total(NamedTuple):
    """The quadratic of many batches, or what else a verb gives, and what it is made of.

    Attributes:
        result: of all examples, in float64; None where there were none.
        weight: Σ_b w_b, what the mean is over; None for a loss that is a sum.
        batches: how many were summed.
        complete: False where Ctrl-C came before the last.
    """

    result: Any
    weight: float | None
    batches: int
    complete: bool


def accumulate(
    loss: Callable[..., Tensor],
    *,
    verb: Verb | None = None,
    weight: Weight | str | None = None,
    reduction: str | None = None,
    strategy: StrategyLike | None = None,
) -> "Accumulated":
    """The quadratic of a loss over a whole data set, batch by batch: that of the one big batch, to rounding.

        q = Σ_b w_b·q_b / Σ_b w_b for a loss that is a mean        q = Σ_b q_b for one that is a sum

    Losses for which that is not true are found. A sum that was declared a mean is refused. Where examples depend on
    each other (BatchNorm in train mode, dropout, a contrastive loss), or the weight is wrong, a BatchDependenceWarning
    is given; the numbers are then the weighted mean over the batches as they came.

    The check costs forward passes without derivatives. Where the weight is given, or is the criterion's own, there is
    one for each new shape of batch and mode of the layers. Otherwise there is one over 9/8 of every batch, which is
    compared with examples of the first: captured, the whole then costs 1.3 times as much for an MLP, 1.7 for a conv
    net, and 2.7 for a net so small that calls are all its cost (``python -m benchmarks.costs.data_sets``).

    Args:
        loss: as for ``quadratic_along``; captured, it has one program for full batches and one for a ragged last.
        verb: another one whose result is linear in the loss, such as ``quadratic_in_span``, or
            ``partial(taylor_along, order=4)``, ``partial(quadratic_along, curvature="fisher")``.
        weight: what the mean of a batch's loss is over, called as ``weight(*batch)``: a number, such as
            ``lambda tokens, targets: (targets != pad).sum()``. "examples": their number. Left out: what the criterion
            of ``functional_loss`` averages over (elements, targets that are not ignored, their class weights), counted
            in every batch; for any other loss the number of examples, a guess that is checked at every batch.
        reduction: "mean" or "sum"; left out: the criterion's own, and "mean" where it has none.
        strategy: as for the verb.

    Returns:
        ``(params, direction, batches, *, progress=False) -> Quadratic`` (or what the verb gives, of its directions),
        float64, on the device of the loss.
        ``batches`` is any iterable (a DataLoader, a generator) of tuples (positional arguments of the loss), mappings
        (keyword arguments) or single tensors. ``progress`` shows a bar. Memory is one batch's; the cost is
        ``quadratic_along`` of each. Ctrl-C ends the sum: the quadratic of the batches so far is returned, with a
        warning. Its method ``total``, called alike, gives the Total, whose weight ``all_reduce`` takes.

    Raises:
        TypeError, ValueError: an argument is not as above, there was no batch, the weights sum to zero, or the verb
            gives something that is not a sum over examples (``optimal_alpha``, ``lr_and_momentum``).
        ImportError: ``progress`` needs rich, of alpha-func[observe].

    >>> import torch
    >>> loss = lambda x, y: ((x - y) ** 2).mean()
    >>> batches = torch.tensor([1.0, 3.0, 5.0]).split(2)
    >>> accumulate(loss)(torch.tensor(0.0), torch.tensor(1.0), batches).alpha
    tensor(3., dtype=torch.float64)
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")
    return Accumulated(loss, weighing(loss, weight, reduction), measure(loss, verb, strategy))


class Accumulated:
    """What ``accumulate`` returns: a function of the parameters, a direction (or several) and the batches."""

    def __init__(self, loss: Callable[..., Tensor], weigh: Weighing, along: Callable[..., object]):
        self._loss, self._weigh, self._along = loss, weigh, along
        self._passed: Passed = set()

    def __call__(self, params: Tree, direction: Tree, batches: Iterable[object], *, progress: bool = False) -> Any:
        """The quadratic of all batches; after Ctrl-C, of those that came before it, with a warning."""
        total = self.total(params, direction, batches, progress=progress)
        if not total.complete:
            if not total.batches or total.weight == 0:
                raise KeyboardInterrupt
            over = "" if total.weight is None else f", of weight {total.weight:g}"
            warn(f"interrupted: the quadratic is that of the first {total.batches} batches{over}", RuntimeWarning)
        if not total.batches:
            raise ValueError("batches is empty: expected at least one batch (an iterator is used up by one pass)")
        if total.weight == 0:
            raise ValueError("the weights of all batches are 0: there is no example to take the mean over")
        return total.result

    def total(self, params: Tree, direction: Tree, batches: Iterable[object], *, progress: bool = False) -> Total:
        """The quadratic of all batches, possibly none, and what it is made of; Ctrl-C makes it incomplete."""
        if not isinstance(batches, Iterable) or isinstance(batches, Tensor):
            raise TypeError(
                f"batches must be an iterable of batches, got {type(batches).__name__}; pass [batch] for one"
            )
        weigh = self._weigh.fresh()
        check = AdditivityCheck(self._loss, weigh, self._passed)
        earlier = _Sum(None, None, 0.0, 0)
        recent: list[tuple[float, object]] = []
        complete, together = True, has_shards(params, self._loss)
        try:
            for batch in _shown(batches) if progress else batches:
                args, kwargs = arguments(batch.batch if isinstance(batch, Idle) else batch)
                w = 0.0 if isinstance(batch, Idle) else weigh(args, kwargs)
                # The mean over nothing is NaN; but what is sharded is gathered by all ranks together.
                found = self._along(params, direction, *args, **kwargs) if w or together else None
                if not w:
                    found = None
                if found is not None and not together:
                    check(params, args, kwargs, getattr(found, "value", None))
                recent.append((w, found))  # at once: Ctrl-C finds either all of a batch or nothing
                if len(recent) == _RECENT:
                    earlier, recent = earlier.plus(recent), []
        except KeyboardInterrupt:
            complete = False
        kind, total, weight, count = earlier.plus(recent)
        result = None if total is None else with_numbers(kind, total / weight if weigh.mean else total)
        return Total(result, weight if weigh.mean else None, count, complete)


class _Sum(NamedTuple):
    """One of the results, Σ w·(its numbers) in float64, Σ w, and of how many batches."""

    kind: Any
    total: Tensor | None
    weight: float
    batches: int

    def plus(self, recent: list[tuple[float, object]]) -> "_Sum":
        """With more batches, added up at once: that is cheaper than one by one."""
        kind, total, weight = self.kind, self.total, self.weight + sum(w for w, _ in recent)
        found = [result for _, result in recent if result is not None]
        if found:
            many, kind = rows(found), found[0]
            weights = [w for w, result in recent if result is not None]
            more = torch.tensor(weights, dtype=torch.float64, device=many.device) @ many
            total = more if total is None else total + more
        return _Sum(kind, total, weight, self.batches + len(recent))


def _shown(batches: Iterable[object]) -> Iterable[object]:
    try:
        from rich.progress import track
    except ImportError as error:
        raise ImportError("progress=True needs rich: pip install 'alpha-func[observe]'") from error
    return track(batches, description="batches")
