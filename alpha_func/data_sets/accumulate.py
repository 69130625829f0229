"""The quadratic of a whole data set: the three numbers are sums over examples.

    w_b   the weight of batch b, what the mean of its loss is over          W = Σ_b w_b
    L(θ) = 1/W Σ_b w_b·L_b(θ)      dᵀg = 1/W Σ_b w_b·dᵀg_b      dᵀHd = 1/W Σ_b w_b·dᵀH_b d

One mini-batch's α* is noisy, and biased where the direction is made of the same examples: Tatzel, Wenger, Schneider and
Hennig, Debiasing Mini-Batch Quadratics for Applications in Deep Learning (ICLR 2025). The data set's is neither.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.data_sets.additivity import coupled_layers, halves, modes
from alpha_func.data_sets.batches import arguments
from alpha_func.data_sets.weights import Weighing, Weight, weighing
from alpha_func.errors import BatchDependenceWarning
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import require_callable
from alpha_func.transforms.verbs import quadratic_along
from alpha_func.tree import Tree

_RECENT = 64
Passed = set[Any]  # modes of the layers and shapes of the batch, of losses found to be made of their examples'


class Total(NamedTuple):
    """The quadratic of many batches and what it is made of.

    Attributes:
        quadratic: of all examples, in float64; NaN where there were none (zero for a loss that is a sum).
        weight: Σ_b w_b, what the mean is over; None for a loss that is a sum.
        batches: how many were summed.
        complete: False where Ctrl-C came before the last.
    """

    quadratic: Quadratic
    weight: float | None
    batches: int
    complete: bool


def accumulate(
    loss: Callable[..., Tensor],
    *,
    weight: Weight | str | None = None,
    reduction: str | None = None,
    strategy: StrategyLike | None = None,
) -> Callable[..., Quadratic]:
    """The quadratic of a loss over a whole data set, batch by batch: that of the one big batch, to rounding.

        q = Σ_b w_b·q_b / Σ_b w_b for a loss that is a mean        q = Σ_b q_b for one that is a sum

    A loss of which that is not true is pointed out at the first batch, which is evaluated once more in two halves (not
    at a further call with the modes of the layers and the shapes of one that passed): one
    that is a sum where a mean was said is refused, one whose examples depend on each other (BatchNorm in train mode,
    dropout, a contrastive loss) or whose weight is another gives a BatchDependenceWarning; the numbers are then the
    weighted mean over batches as they came.

    Args:
        loss: as for ``quadratic_along``; captured, it has one program for full batches and one for a ragged last.
        weight: what the mean of a batch's loss is over, called as ``weight(*batch)``: a number, such as
            ``lambda tokens, targets: (targets != pad).sum()``. "examples": their number. Left out: what the criterion
            of ``functional_loss`` averages over (elements, targets that are not ignored, their class weights), and the
            number of examples for any other loss.
        reduction: "mean" or "sum"; left out: the criterion's own, and "mean" where it has none.
        strategy: as for ``quadratic_along``.

    Returns:
        ``(params, direction, batches, *, progress=False, with_total=False) -> Quadratic``, float64, on the device of
        the loss. ``batches`` is any iterable (a DataLoader, a generator) of tuples (positional arguments of the loss),
        mappings (keyword arguments) or single tensors. ``progress`` shows a bar. ``with_total`` gives the Total
        instead, whose weight ``all_reduce`` takes. Memory is one batch's; the cost is ``quadratic_along`` of each.
        Ctrl-C ends the sum: the quadratic of the batches so far is returned, with a warning.

    Raises:
        TypeError, ValueError: an argument is not as above, there was no batch, or the weights sum to zero.
        ImportError: ``progress`` needs rich, of alpha-func[observe].

    >>> import torch
    >>> loss = lambda x, y: ((x - y) ** 2).mean()
    >>> batches = torch.tensor([1.0, 3.0, 5.0]).split(2)
    >>> accumulate(loss)(torch.tensor(0.0), torch.tensor(1.0), batches).alpha
    tensor(3., dtype=torch.float64)
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")
    weigh = weighing(loss, weight, reduction)
    along = quadratic_along(loss, strategy=strategy)
    passed: Passed = set()

    def quadratic(
        params: Tree, direction: Tree, batches: Iterable[Any], *, progress: bool = False, with_total: bool = False
    ) -> Any:
        if not isinstance(batches, Iterable) or isinstance(batches, Tensor):
            raise TypeError(
                f"batches must be an iterable of batches, got {type(batches).__name__}; pass [batch] for one"
            )
        total = _summed(loss, along, weigh, passed, params, direction, _shown(batches) if progress else batches)
        if with_total:
            return total
        if not total.batches:
            raise ValueError("batches is empty: expected at least one batch (an iterator is used up by one pass)")
        if total.weight == 0:
            raise ValueError("the weights of all batches are 0: there is no example to take the mean over")
        return total.quadratic

    return quadratic


def _summed(
    loss: Callable[..., Tensor],
    along: Callable[..., Quadratic],
    weigh: Weighing,
    passed: Passed,
    params: Tree,
    direction: Tree,
    batches: Iterable[Any],
) -> Total:
    weigh = weigh.fresh()
    earlier = _Sum(torch.zeros(3, dtype=torch.float64), 0.0, 0)
    recent: list[tuple[float, Quadratic | None]] = []
    checked, complete = False, True
    try:
        for batch in batches:
            args, kwargs = arguments(batch)
            w = weigh(args, kwargs)
            found = along(params, direction, *args, **kwargs) if w else None  # the mean over nothing is NaN
            if found is not None and not checked:
                point_out(loss, weigh, passed, params, args, kwargs, found.value)
                checked = True
            recent.append((w, found))  # at once: Ctrl-C finds either all of a batch or nothing
            if len(recent) == _RECENT:
                earlier, recent = earlier.plus(recent), []
    except KeyboardInterrupt:
        complete = False
    total, weight, count = earlier.plus(recent)
    if not complete:
        if not weight:
            raise KeyboardInterrupt
        warnings.warn(
            f"interrupted: the quadratic is that of the first {count} batches, of weight {weight:g}",
            RuntimeWarning,
            stacklevel=3,
        )
    if weigh.mean:
        total = total / weight
    return Total(Quadratic(*total.unbind()), weight if weigh.mean else None, count, complete)


class _Sum(NamedTuple):
    """Σ w·(value, slope, curvature) in float64, Σ w, and of how many batches."""

    total: Tensor
    weight: float
    batches: int

    def plus(self, recent: list[tuple[float, Quadratic | None]]) -> "_Sum":
        """With more batches, added up at once: that is cheaper than one by one."""
        total, weight = self.total, self.weight + sum(w for w, _ in recent)
        numbers = [number for _, quadratic in recent if quadratic is not None for number in quadratic]
        if numbers:
            many = torch.stack(numbers).view(-1, 3)
            many = many.to(_with_float64(many.device)).double()
            weights = [w for w, quadratic in recent if quadratic is not None]
            total = torch.tensor(weights, dtype=torch.float64, device=many.device) @ many + total.to(many.device)
        return _Sum(total, weight, self.batches + len(recent))


def point_out(
    loss: Callable[..., Tensor],
    weigh: Weighing,
    passed: Passed,
    params: Tree,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    value: Tensor,
) -> None:
    """Say where the loss of a batch is not made of its examples', or note in ``passed`` that it is."""
    kind = modes(loss), tuple(leaf.shape for leaf in tree.leaves((args, kwargs)) if isinstance(leaf, Tensor))
    if kind in passed:
        return
    layers = coupled_layers(loss)
    if layers:
        _warn(f"{', '.join(layers)} makes the examples of a batch depend on each other; call module.eval() first")
        return
    try:
        found = halves(loss, params, args, kwargs, weigh, value)
    except Exception as error:
        _warn(f"the loss cannot be taken of half a batch ({type(error).__name__}: {error}), so this was not checked")
        return
    if found is None or found.agree:
        passed.add(kind)
        return
    numbers = f"the loss of the first batch is {found.whole:.9g}, of its halves together {found.together:.9g}"
    if found.is_sum or found.is_mean:
        is_, said = ("sum", "mean") if found.is_sum else ("mean", "sum")
        raise ValueError(f"reduction is {said!r}, but the loss is a {is_}: {numbers}; say reduction={is_!r}")
    _warn(
        f"{numbers}: its examples depend on each other or on chance, or its mean is over something else than their "
        "number; say what with weight=lambda *batch: ..."
    )


def _warn(what: str) -> None:
    warnings.warn(
        f"the sum over batches may not be the quadratic of the one big batch: {what}",
        BatchDependenceWarning,
        stacklevel=5,
    )


def _with_float64(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device  # Apple's has no float64


def _shown(batches: Iterable[Any]) -> Iterable[Any]:
    try:
        from rich.progress import track
    except ImportError as error:
        raise ImportError("progress=True needs rich: pip install 'alpha-func[observe]'") from error
    return track(batches, description="batches")
