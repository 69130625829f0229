"""PyTorch's derivatives beyond the second: proven by differences for each set of operators, or refused.

Its formulas have been verified to second order (``verified.table``); at the third, those of layer and batch
normalisation are known to be wrong.
"""

from collections.abc import Callable

from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.errors import StrategyError
from alpha_func.losses.in_double import doubled, loss_in_double
from alpha_func.torch_private import forward_level, peek_interpreter_stack
from alpha_func.transforms.guard import GuardedCall
from alpha_func.transforms.tower import against_differences
from alpha_func.transforms.validation import scalar_loss
from alpha_func.tree import Tree


class HigherOrders:
    """Which derivatives have been proven, by the operators that they pass through."""

    def __init__(self) -> None:
        self._proven: dict[frozenset[str], int] = {}

    def require(
        self,
        loss: Callable[..., Tensor],
        params: Tree,
        direction: Tree,
        order: int,
        args: Args,
        kwargs: Kwargs,
        seen: GuardedCall,
    ) -> None:
        """Refuse derivatives up to an order that differences do not give."""
        wrong_thrice = seen.wrong_thrice()
        if wrong_thrice:
            raise StrategyError(_WRONG.format(", ".join(wrong_thrice)))
        if self._proven.get(seen.passed, 2) >= order:
            return
        if peek_interpreter_stack() is not None or forward_level() >= 0:
            raise StrategyError(_UNDER_A_TRANSFORM.format(order))
        at, d, some, options = tree.map(_alone, (params, direction, args, kwargs))
        found = against_differences(scalar_loss(loss_in_double(loss), some, options), at, d, order)
        if found is not None:
            why = _PARTED if found.differences == found.differences else _KINK
            raise StrategyError(why.format(found.order, found.got, found.differences))
        self._proven[seen.passed] = order


def _alone(leaf: object) -> object:
    return doubled(leaf.detach()) if isinstance(leaf, Tensor) else leaf


_CAPTURE = "use capture(loss), which has derivative rules of its own"
_WRONG = "PyTorch's third derivative through {} is silently wrong; " + _CAPTURE
_PARTED = (
    "PyTorch's derivative of order {} along the direction is {:.9g}, and finite differences give {:.9g}; " + _CAPTURE
)
_KINK = (
    "PyTorch's derivative of order {} along the direction, {:.9g}, cannot be checked: finite differences do not "
    "converge here (is a kink nearby?); " + _CAPTURE
)
_UNDER_A_TRANSFORM = (
    "PyTorch's derivatives of order {} have not been checked for the operators of this loss, and there are no values "
    "to check them with inside vmap or grad: call it once outside of them first, or " + _CAPTURE
)
