"""A loss told apart: the outputs z = f(θ, x) of a module, and the criterion ψ(z, y) on them.

Only a loss of ``functional_loss(module, criterion)`` says which is which. Called with a ``shift``, a zero, it adds that
to the outputs: a captured program then shows where they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from alpha_func.calls import Function
from alpha_func.losses.criteria import as_module
from alpha_func.losses.forms import Supervised
from alpha_func.losses.module_loss import ModuleLoss, module_loss_of

SHIFT = "shift"  # the keyword of ``Supervised``

_APART = (
    "curvature={!r} needs a module and a criterion on its outputs, and this loss, {}, does not keep them apart: "
    "make it by functional_loss(module, criterion)"
)
_NO_LIKELIHOOD = (
    "curvature='fisher' needs a criterion that is the negative log-likelihood of its targets in natural parameters, "
    "whose Hessian does not depend on them: CrossEntropyLoss, BCEWithLogitsLoss or MSELoss; {}. "
    "curvature='gauss_newton' takes any criterion"
)


class Parted(NamedTuple):
    """f and ψ: ``outputs(params, inputs)``, and ``criterion(outputs, targets)``."""

    outputs: Function
    criterion: Callable[..., Tensor]


def parted(loss: Callable[..., Tensor], curvature: str) -> Parted:
    """The two that a loss is made of.

    Raises:
        ValueError: it does not say.
    """
    source = module_loss_of(loss)
    if source is None or not isinstance(source.model, Supervised):
        what = "a function" if source is None else "one of the module's own or of loss_of"
        raise ValueError(_APART.format(curvature, what))
    return Parted(ModuleLoss(_Outputs(source.model.module), source.names, source.seed), source.model.criterion)


def require_likelihood(criterion: Callable[..., Tensor]) -> None:
    """Refuse a criterion of which the Fisher information is not its own Hessian, whatever the targets.

    With p(y|z) ∝ exp(−ψ(z, y)) in natural parameters z, E_y ∇ψ∇ψᵀ = E_y ∇²ψ = ∇²ψ. For a squared error that is the
    Gaussian of variance ½. Under class weights or pos_weight the three are not one: E_y ∇ψ∇ψᵀ has the square of the
    weight, E_y ∇²ψ the weight, of the class that is drawn, and ∇²ψ that of the target.
    """
    criterion = as_module(criterion)
    name = type(criterion).__name__
    known = (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MSELoss)
    kind = next((kind for kind in known if isinstance(criterion, kind)), None)
    if kind is not None and getattr(type(criterion), "forward", None) is not kind.forward:
        why: str | None = f"{name} is a {kind.__name__} with a forward of its own"
    elif isinstance(criterion, nn.CrossEntropyLoss):
        why = None if criterion.weight is None else "the class weights make its Hessian depend on the targets"
    elif isinstance(criterion, nn.BCEWithLogitsLoss):
        why = None if criterion.pos_weight is None else "pos_weight makes its Hessian depend on the targets"
    elif isinstance(criterion, nn.MSELoss):
        why = None
    elif isinstance(criterion, nn.NLLLoss | nn.BCELoss):
        instead = "CrossEntropyLoss" if isinstance(criterion, nn.NLLLoss) else "BCEWithLogitsLoss"
        why = f"{name} takes probabilities: use {instead}, on the outputs before them"
    else:
        why = f"got {getattr(criterion, '__name__', name)}"
    if why is not None:
        raise ValueError(_NO_LIKELIHOOD.format(why))


class _Outputs(nn.Module):
    """The outputs alone."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, inputs: object) -> Any:
        return self.module(inputs)
