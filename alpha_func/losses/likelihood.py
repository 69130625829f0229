"""A criterion as the negative log-likelihood of its targets in natural parameters, where its Hessian is the Fisher
information.

    p(y|z) ∝ exp(−ψ(z, y))     E_y ∇ψ∇ψᵀ = E_y ∇²ψ = ∇²ψ, which does not depend on y

For a squared error that is the Gaussian of variance ½. On the probabilities of BCELoss and the log-probabilities of
NLLLoss the Hessian is another matrix than the Fisher information; that is the Hessian in the natural parameters:

    BCELoss     z = log p/(1 − p)     tᵀFt = Σ t²/(p(1 − p))
    NLLLoss     z, with Σ exp z = 1   tᵀFt = Σ exp(z)·t²

A weight that multiplies the whole loss of an example, or of an entry, multiplies its Fisher information, as the 1/n of
a mean does. Under class weights or pos_weight there is none: E_y ∇ψ∇ψᵀ has the square of the weight, E_y ∇²ψ the
weight, of the class that is drawn, and ∇²ψ that of the target. Smoothed labels leave the distribution as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alpha_func.losses.criteria import as_module

NATURAL = "natural"  # the keyword of ``Supervised``

_NONE = (
    "curvature='fisher' needs a criterion that is the negative log-likelihood of its targets: CrossEntropyLoss, "
    "NLLLoss, BCEWithLogitsLoss, BCELoss, MSELoss, PoissonNLLLoss, SoftMarginLoss or MultiLabelSoftMarginLoss; {}. "
    "curvature='gauss_newton' takes any criterion"
)

NOT_NORMALISED = (
    "the outputs of the module are not the probabilities, or their logarithms, that the criterion takes: end the "
    "module in LogSoftmax or Sigmoid, or use CrossEntropyLoss or BCEWithLogitsLoss: {}"
)


class Likelihood(NamedTuple):
    """ψ in natural parameters: ``criterion(link(outputs), targets)`` is the criterion that was given."""

    link: Callable[[Any], Any]
    criterion: Callable[..., Tensor]


@dataclass(frozen=True)
class _OfLogits:
    """BCELoss, of logits."""

    given: nn.BCELoss

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, y, self.given.weight, reduction=self.given.reduction)


@dataclass(frozen=True)
class _OfLogProbabilities:
    """NLLLoss, of log-probabilities: log softmax leaves these as they are."""

    given: nn.NLLLoss

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        given = self.given
        return F.cross_entropy(z, y, ignore_index=given.ignore_index, reduction=given.reduction)


def natural(criterion: Callable[..., Tensor]) -> Likelihood | None:
    """The criterion in natural parameters; None where those are what it takes, or where it is no likelihood."""
    known = as_module(criterion)
    if _reason_against(known) is not None:
        return None
    if isinstance(known, nn.BCELoss):
        return Likelihood(torch.logit, _OfLogits(known))
    return Likelihood(as_it_is, _OfLogProbabilities(known)) if isinstance(known, nn.NLLLoss) else None


def require_likelihood(criterion: Callable[..., Tensor]) -> None:
    """Refuse a criterion of which the Fisher information is not known.

    Raises:
        ValueError: it is not one of those above, or not a likelihood with its options.
    """
    why = _reason_against(as_module(criterion))
    if why is not None:
        raise ValueError(_NONE.format(why))


_CLASS_WEIGHTS = "the class weights make its Hessian depend on the targets"
_POS_WEIGHT = "pos_weight makes its Hessian depend on the targets"
_KINDS: dict[type[nn.Module], Callable[[Any], str | None]] = {
    nn.CrossEntropyLoss: lambda c: None if c.weight is None else _CLASS_WEIGHTS,
    nn.NLLLoss: lambda c: None if c.weight is None else _CLASS_WEIGHTS,
    nn.BCEWithLogitsLoss: lambda c: None if c.pos_weight is None else _POS_WEIGHT,
    nn.BCELoss: lambda c: None,
    nn.MSELoss: lambda c: None,
    nn.PoissonNLLLoss: lambda c: None if c.log_input else "PoissonNLLLoss is of a rate: use log_input=True, of its log",
    nn.SoftMarginLoss: lambda c: None,
    nn.MultiLabelSoftMarginLoss: lambda c: None,
}


def _reason_against(criterion: Any) -> str | None:
    name = type(criterion).__name__
    kind = next((kind for kind in _KINDS if isinstance(criterion, kind)), None)
    if kind is None:
        return f"got {getattr(criterion, '__name__', name)}"
    if getattr(type(criterion), "forward", None) is not kind.forward:
        return f"{name} is a {kind.__name__} with a forward of its own"
    return _KINDS[kind](criterion)


def as_it_is(outputs: Any) -> Any:
    """No link."""
    return outputs
