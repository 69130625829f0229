"""The learning rate and the momentum of a step that together are best: where the quadratic in their span is least.

    θ⁺ = θ + lr·d + momentum·δ        d the step without momentum, δ = θ − θ₋ the step before

The rule of Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature (2015), section
7, with the Hessian itself for its curvature matrix.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from alpha_func.span import SpanQuadratic, not_negative
from alpha_func.transforms.along import in_span, independent
from alpha_func.transforms.engine import engine_of
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import LOSS_SIGNATURE, aligned, check_params, require_callable
from alpha_func.tree import Tree


class LRMomentum(NamedTuple):
    """The best multiples of a step and of the step before it, and the quadratic that they minimise.

    Attributes:
        lr: the multiple of d.
        momentum: the multiple of δ.
        quadratic: in the span of d and δ; of d alone where δ is zero or a multiple of it.
    """

    lr: Tensor
    momentum: Tensor
    quadratic: SpanQuadratic


def lr_and_momentum(
    loss: Callable[..., Tensor], *, damping: float = 0.0, strategy: StrategyLike | None = None
) -> Callable[..., LRMomentum]:
    """The learning rate and momentum that minimise the quadratic of a loss, for a step with momentum.

    lr, momentum minimise q(lr·d + momentum·δ) + ½·damping·‖lr·d + momentum·δ‖². For SGD, d = −g; for Adam, −g over the
    root of its second moments: ``from_optimizer(...).without_momentum()`` gives it of any optimizer.

    Args:
        loss: as for ``quadratic_along``.
        damping: λ ≥ 0, which keeps the step short where the curvature is small.
        strategy: as for ``quadratic_in_span``.

    Returns:
        ``(params, direction, previous, *args, **kwargs) -> LRMomentum``, direction and previous trees as params. Where
        previous is zero, as before a first step, or a multiple of direction, momentum is 0 and lr is α*; under ``vmap``
        no values tell that, and both are NaN. Where the curvature is not positive definite (``quadratic.is_minimum``)
        they are a saddle's: damp it. Costs and errors are
        those of ``quadratic_in_span``.

    >>> import torch
    >>> loss = lambda x: (torch.tensor([1.0, 9.0]) * x**2).sum() / 2
    >>> best = lr_and_momentum(loss)(torch.tensor([2.0, 1.0]), torch.tensor([-2.0, -9.0]), torch.tensor([1.0, 0.0]))
    >>> best.lr, best.momentum  # one step from there to the minimum
    (tensor(0.1111), tensor(-1.7778))
    """
    not_negative("damping", damping)
    require_callable("loss", loss, LOSS_SIGNATURE)
    engine = engine_of(loss, strategy)

    def best(params: Tree, direction: Tree, previous: Tree, *args: object, **kwargs: object) -> LRMomentum:
        check_params(params)
        d, δ = aligned(params, direction, "direction"), aligned(params, previous, "previous")
        products, first = independent([d, δ])
        if first == 0:
            raise ValueError("direction is zero: a step of length zero has no best learning rate")
        k = 1 if first == 1 else 2
        found = in_span(engine, params, [d, δ][:k], products[:k, :k], args, kwargs)
        c = found.minimizer(damping=damping)
        return LRMomentum(c[0], torch.zeros_like(c[0]) if k == 1 else c[1], found)

    return best
