"""The Gauss-Newton curvature of an uncaptured loss: the criterion's quadratic along what a direction does to outputs.

    z = f(θ, x)     t = J d, the outputs' tangent along d     dᵀGd = tᵀ ∇²ψ(z) t     dᵀg = tᵀ∇ψ(z)

So it is the quadratic of ψ at z along t, and that of the loss where f is replaced by its linearisation at θ.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, func

from alpha_func import tree
from alpha_func.errors import ImpureLossError, StrategyError
from alpha_func.losses.likelihood import NOT_NORMALISED
from alpha_func.losses.parting import Parted
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.guard import formulas, key_of
from alpha_func.transforms.strategies import pushforward
from alpha_func.tree import Tree
from alpha_func.verified.formulas import ONCE
from alpha_func.verified.table import operator_of


class GaussNewton:
    """dᵀGd of a loss that is told apart, its slope compared with the loss's own at a first call.

    Args:
        loss: as it was given.
        parted: its outputs and its criterion.
        quadratic: of a criterion at outputs along a tangent: ``(criterion, z, t, targets)``.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        parted: Parted,
        quadratic: Callable[[Callable[..., Tensor], Tree, Tree, tuple[object, ...]], Quadratic],
    ):
        self._loss, self._parted, self._quadratic = loss, parted, quadratic
        self._looked_at: set[object] = set()

    def __call__(self, params: Tree, direction: Tree, inputs: object, targets: object) -> Quadratic:
        """The quadratic with the Gauss-Newton curvature."""
        key = key_of(self._loss, params, (inputs, targets), {})
        plainly = None
        if key not in self._looked_at:
            names, plainly = formulas(self._loss, params, (inputs, targets), {})
            once = sorted(operator_of(name) for name in names if name.endswith(ONCE))
            if once:
                raise StrategyError(_ONCE.format(", ".join(once)))
        leaves, rebuilt, t = _pushed(lambda p: self._parted.outputs(p, inputs), params, direction)

        def criterion(leaves: list[Tensor], targets: object) -> Tensor:
            return self._parted.criterion(rebuilt(leaves), targets)

        found = self._quadratic(criterion, leaves, t, (targets,))
        if plainly is not None:
            try:
                plainly.require(found, direction)
            except ImpureLossError as error:
                raise StrategyError((_OTHERWISE if self._parted.is_given else NOT_NORMALISED).format(error)) from error
            self._looked_at.add(key)
        return found


def _pushed(
    outputs: Callable[[Tree], object], params: Tree, direction: Tree
) -> tuple[list[Tensor], Callable[[list[Tensor]], object], list[Tensor]]:
    """The floating leaves of the outputs, what puts others in their place, and their tangents."""
    kept: list[Any] = []

    def floating(params: Tree) -> list[Tensor]:
        kept[:] = [outputs(params)]
        return [leaf for leaf in tree.leaves(kept[0]) if _moves(leaf)]

    try:
        z, t = pushforward(floating, params, direction)
    except RuntimeError:  # no forward mode (LSTM): the pullback is linear, and its pullback is the pushforward
        z, back = func.vjp(floating, params)  # type: ignore[misc]
        t = func.vjp(lambda u: back(u)[0], [torch.zeros_like(leaf) for leaf in z])[1](direction)[0]
    whole = kept[0]

    def rebuilt(leaves: list[Tensor]) -> object:
        given = iter(leaves)
        return tree.map(lambda leaf: next(given) if _moves(leaf) else leaf, whole)

    return z, rebuilt, t


def _moves(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


_ONCE = (
    "{} is an autograd.Function whose backward is marked once_differentiable: torch.func would treat the derivative "
    "through it as zero; write a backward that can be differentiated, or write the function in torch operators"
)
_OTHERWISE = (
    "the criterion depends on the parameters, or draws, other than through the outputs of the module, so the two "
    "cannot be separated: {}"
)
