"""A loss told apart: the outputs z = f(θ, x) of a module, and the criterion ψ(z, y) on them.

Only a loss of ``functional_loss(module, criterion)`` says which is which. Called with a ``shift``, a zero, it adds that
to the outputs: a captured program then shows where they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from alpha_func.calls import Function
from alpha_func.losses.forms import Supervised
from alpha_func.losses.module_loss import ModuleLoss, module_loss_of

SHIFT = "shift"  # the keyword of ``Supervised``

_APART = (
    "curvature={!r} needs a module and a criterion on its outputs, and this loss, {}, does not keep them apart: "
    "make it by functional_loss(module, criterion)"
)


class Parted(NamedTuple):
    """f and ψ: ``outputs(params, inputs)``, and ``criterion(outputs, targets)``; in natural parameters where asked."""

    outputs: Function
    criterion: Callable[..., Tensor]
    is_given: bool  # whether they are the module's own and that of the loss


def parted(loss: Callable[..., Tensor], curvature: str, *, natural: bool = False) -> Parted:
    """The two that a loss is made of.

    Args:
        loss: as it was given.
        curvature: for the message.
        natural: whether the outputs are to be the natural parameters of the criterion: ``losses.likelihood``.

    Raises:
        ValueError: it does not say.
    """
    source = module_loss_of(loss)
    if source is None or not isinstance(source.model, Supervised):
        what = "a function" if source is None else "one of the module's own or of loss_of"
        raise ValueError(_APART.format(curvature, what))
    model = source.model
    link, criterion = model.parts(natural)
    outputs = ModuleLoss(_Outputs(model.module, link), source.names, source.seed)
    return Parted(outputs, criterion, is_given=criterion is model.criterion)


class _Outputs(nn.Module):
    """The outputs alone."""

    def __init__(self, module: nn.Module, link: Function):
        super().__init__()
        self.module = module
        self.link = link

    def forward(self, inputs: object) -> Any:
        return self.link(self.module(inputs))
