"""α* without the bias of its own batch: the direction from one batch, slope and curvature from another.

A direction made of a batch's gradient g = ∇L + noise points along the noise too. On the same batch that looks like
progress: dᵀg holds −‖noise‖², so the slope is too steep, and d leans to what that batch happens to bend. On another
batch, whose noise is independent, the slope is unbiased: E[dᵀg′] = dᵀ∇L, and so is the curvature. Tatzel, Wenger,
Schneider and Hennig, Debiasing Mini-Batch Quadratics for Applications in Deep Learning (ICLR 2025).
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from alpha_func.data_sets.batches import arguments
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.directions import DirectionFunction, steepest_descent
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.verbs import grad_and_quadratic, quadratic_along
from alpha_func.tree import Tree


class TwoBatchStep(NamedTuple):
    """The gradient g of a batch, d = direction(g), and the quadratic along d of the same and of another batch."""

    grads: Tree
    direction: Tree
    same: Quadratic
    held_out: Quadratic


def two_batch(
    loss: Callable[..., Tensor],
    direction: DirectionFunction = steepest_descent,
    *,
    strategy: StrategyLike | None = None,
) -> Callable[..., TwoBatchStep]:
    """A step's direction from one batch, and its quadratic on that and on another: the bias of α* is their difference.

    Args:
        loss, direction, strategy: as for ``grad_and_quadratic``.

    Returns:
        ``(params, batch, held_out) -> TwoBatchStep``. The batches, of any two sizes, are tuples (positional arguments
        of the loss), mappings (keyword arguments) or tensors; they should share no example. The cost is one
        ``grad_and_quadratic`` and one ``quadratic_along``.

    Raises:
        As ``grad_and_quadratic``.

    >>> import torch
    >>> loss = lambda x, y: ((x - y) ** 2).mean()
    >>> step = two_batch(loss)(torch.tensor(0.0), torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]))
    >>> step.direction, step.same.alpha, step.held_out.alpha
    (tensor(4.), tensor(0.5000), tensor(0.3750))
    """
    step = grad_and_quadratic(loss, direction, strategy=strategy)
    along = quadratic_along(loss, strategy=strategy)

    def both(params: Tree, batch: object, held_out: object) -> TwoBatchStep:
        args, kwargs = arguments(batch)
        others, options = arguments(held_out)
        grads, d, same = step(params, *args, **kwargs)
        return TwoBatchStep(grads, d, same, along(params, d, *others, **options))

    return both
