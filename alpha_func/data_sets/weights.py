"""What the mean of a loss is over, so that means of parts give the mean of the whole.

    L(batch) = 1/w Σᵢ ℓᵢ, w the weight of the batch        L(whole) = Σ_b w_b·L(b) / Σ_b w_b

w is the number of examples for most losses, of tokens that are not ignored for a language model's, the sum of the class
weights of the targets for a weighted cross entropy. A loss that is a sum needs none: its parts add up.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from alpha_func.calls import Args, Kwargs
from alpha_func.data_sets.batches import shapes_of, size_of
from alpha_func.losses.criteria import as_module
from alpha_func.losses.module_loss import module_loss_of

Weight = Callable[..., float | Tensor]
REDUCTIONS = ("mean", "sum")

_ELEMENTWISE = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.PoissonNLLLoss,
    nn.KLDivLoss, nn.SoftMarginLoss, nn.HingeEmbeddingLoss,
)  # fmt: skip
_BY_EXAMPLE = (nn.MultiMarginLoss, nn.MultiLabelMarginLoss, nn.MultiLabelSoftMarginLoss)


class Weighing(NamedTuple):
    """How the losses of parts make the loss of the whole: Σ w·L / Σ w, or Σ L.

    Attributes:
        mean: whether the loss is a mean; otherwise a sum, and every weight is 1.
        weight: of a batch, called as the loss without the parameters.
        known: whether that is what the mean is over, by the caller's word or the criterion's rule; if not, a guess.
    """

    mean: bool
    weight: Weight
    known: bool = True

    def fresh(self) -> "Weighing":
        """The same, which has seen no batch yet."""
        return self._replace(weight=_Examples()) if isinstance(self.weight, _Examples) else self

    def __call__(self, args: Args, kwargs: Kwargs) -> float:
        """The weight of a batch, checked."""
        if not self.mean:
            return 1.0
        found = float(self.weight(*args, **kwargs))
        if not (math.isfinite(found) and found >= 0):
            raise ValueError(f"weight(*batch) is {found}: expected a finite number of at least 0")
        return found


def weighing(loss: Callable[..., Tensor], weight: Weight | str | None, reduction: str | None) -> Weighing:
    """How a loss is reduced, from what the caller says, or else from its criterion.

    Args:
        loss: from ``functional_loss`` (captured, cut into chunks or not), or any function.
        weight: of a batch, called as ``weight(*batch)``; "examples": their number; None: by the criterion.
        reduction: "mean" or "sum"; None: the criterion's, and "mean" where it has none.

    Raises:
        TypeError, ValueError: an argument is not as above.

    >>> import torch
    >>> weighing(lambda p, x: (p * x).mean(), None, None)((torch.ones(3, 2),), {})
    3.0
    """
    if reduction not in (None, *REDUCTIONS):
        raise ValueError(f"reduction {reduction!r} is unknown: choose from {', '.join(REDUCTIONS)}, or leave it out")
    if isinstance(weight, str) and weight != "examples":
        raise ValueError(f"weight {weight!r} is unknown: pass 'examples', or a function weight(*batch)")
    if weight is not None and not isinstance(weight, str) and not callable(weight):
        raise TypeError(f"weight must be callable as weight(*batch), or 'examples', got {type(weight).__name__}")
    criterion = criterion_of(loss)
    mean = (reduction or getattr(criterion, "reduction", "mean")) != "sum"
    if not mean and weight is not None:
        raise ValueError("weight is for a loss that is a mean: this one is a sum, leave weight out")
    if weight == "examples":
        return Weighing(mean, size_of_arguments)
    if callable(weight):
        return Weighing(mean, weight)
    by_rule = _by_criterion(criterion)
    return Weighing(mean, by_rule or _Examples(), known=not mean or by_rule is not None)


def criterion_of(loss: Callable[..., Tensor]) -> Any:
    """The criterion that ``functional_loss`` was given, a known function as its module; None where there is none."""
    source = module_loss_of(loss)
    return as_module(getattr(source.model, "criterion", None)) if source is not None else None


def size_of_arguments(*args: object, **kwargs: object) -> int:
    """The number of examples."""
    return size_of(args, kwargs)


def _by_criterion(criterion: Any) -> Weight | None:
    if type(criterion) in (nn.CrossEntropyLoss, nn.NLLLoss):
        return _OfClasses(criterion)
    if type(criterion) in _BY_EXAMPLE or getattr(criterion, "reduction", None) == "batchmean":
        return size_of_arguments
    return _elements if type(criterion) in _ELEMENTWISE else None


def _elements(inputs: object, targets: Tensor) -> int:
    return targets.numel()


class _OfClasses:
    """The sum of the class weights of the targets that are not ignored."""

    def __init__(self, criterion: Any):
        self.criterion = criterion

    def __call__(self, inputs: object, targets: Tensor) -> float | Tensor:
        """By target: a class index, or the probabilities of every class."""
        if targets.is_floating_point():
            return targets.numel() / targets.shape[1 if targets.ndim > 1 else 0]
        counted = targets != self.criterion.ignore_index
        if self.criterion.weight is None:
            return counted.sum()
        return self.criterion.weight.double()[targets[counted]].sum()


class _Examples:
    """The number of examples, refused where the mean may well be over something else."""

    def __init__(self) -> None:
        self.shapes: Any = None

    def __call__(self, *args: object, **kwargs: object) -> int:
        """Of examples that are all of one shape."""
        labels = kwargs.get("labels")
        if isinstance(labels, Tensor) and labels.ndim > 1 and not labels.is_floating_point():
            raise ValueError(
                f"weight is missing: the loss is its module's own, a mean over the labels, {tuple(labels.shape)}, that "
                "are not ignored; for a causal language model of Hugging Face pass "
                "weight=lambda labels, **_: (labels[:, 1:] != -100).sum()"
            )
        shapes = shapes_of(args, kwargs)
        if self.shapes is not None and shapes != self.shapes:
            raise ValueError(
                f"weight is missing: examples have shapes {_listed(self.shapes)} in one batch and {_listed(shapes)} in "
                "another, and the mean may be over their elements; pass weight=lambda *batch: ..., what the mean is "
                "over, or weight='examples'"
            )
        self.shapes = shapes
        return size_of(args, kwargs)


def _listed(shapes: list[Any]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
