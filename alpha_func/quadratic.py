"""The quadratic of a line, and all that follows from its three numbers.

For a loss L, parameters θ and a direction d, the loss along the line is h(α) = L(θ + αd), and its local quadratic

    q(α) = value + slope·α + ½·curvature·α²        value = L(θ)    slope = dᵀg    curvature = dᵀHd

with g the gradient and H the Hessian at θ. α is a multiple of d: for d = −g it is a learning rate.
"""

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)


class Quadratic(NamedTuple):
    """The local quadratic q(α) of a loss along a direction d.

    A NamedTuple of real tensors of one shape, so a pytree: it goes through ``vmap``, stacks and indexes. The shape is
    () for one line; ``vmap`` over n directions gives n.

    Attributes:
        value: L(θ), in units of the loss.
        slope: dᵀg, loss per unit of α.
        curvature: dᵀHd, loss per unit of α².

    >>> import torch
    >>> q = Quadratic(torch.tensor(1.0), torch.tensor(-4.0), torch.tensor(8.0))
    >>> q.alpha
    tensor(0.5000)
    >>> q(q.alpha) == q.minimum
    tensor(True)
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor

    @staticmethod
    def linear_in_loss() -> tuple[str, ...]:
        """The fields that of a sum of losses are sums."""
        return "value", "slope", "curvature"

    @property
    def alpha(self) -> Tensor:
        """α* = −slope / curvature, where q is stationary; a multiple of d.

        IEEE semantics: no clamping and no sentinel. Zero curvature gives ±inf, a zero direction NaN, and negative
        curvature an α* that is the maximum of q: see ``is_minimum``.
        """
        return -self.slope / self.curvature

    @property
    def minimum(self) -> Tensor:
        """q(α*) = value − ½·slope²/curvature; the least value of q where ``is_minimum``."""
        return self(self.alpha)

    @property
    def is_minimum(self) -> Tensor:
        """Whether q has a minimum: curvature > 0."""
        return self.curvature > 0

    @property
    def is_descent(self) -> Tensor:
        """Whether the loss falls along d at first: slope < 0."""
        return self.slope < 0

    def __call__(self, alpha: float | Tensor) -> Tensor:
        """q(α) = value + slope·α + ½·curvature·α², for α a multiple of d that broadcasts against the fields."""
        return self.value + alpha * (self.slope + alpha * self.curvature / 2)

    def gain_ratio(self, loss_after: Tensor, alpha: float | Tensor = 1.0, *, eps: float | None = None) -> Tensor:
        """(h(0) − h(α)) / (q(0) − q(α)), where ``loss_after`` is h(α) = L(θ + αd): how far the quadratic holds.

        Near 1, it holds as far as α; at 0 and below, the loss did not fall. NaN where the loss is rounded to ``eps``
        (by default that of its dtype) and its rounding is a tenth of the predicted decrease or more.

        >>> import torch
        >>> Quadratic(*torch.tensor([4.0, -4.0, 4.0])).gain_ratio(torch.tensor(1.0))
        tensor(1.5000)
        """
        eps = torch.finfo(self.value.dtype).eps if eps is None else eps
        return gain_ratio(self.value, self.slope, self.curvature, loss_after, alpha, eps=eps)


def gain_ratio(
    value: Number, slope: Number, curvature: Number, loss_after: Number, alpha: float | Number = 1.0, *, eps: float
) -> Number:
    """As ``Quadratic.gain_ratio``, of numbers or of tensors.

    >>> gain_ratio(4.0, -4.0, 4.0, 1.0, eps=1e-16), gain_ratio(4.0, -1e-9, 0.0, 4.0, eps=1e-7)
    (1.5, nan)
    """
    promised = -alpha * (slope + alpha * curvature / 2)
    told = abs(promised) > 20 * eps * (abs(value) + abs(loss_after))
    if isinstance(promised, Tensor):
        return torch.where(told, (value - loss_after) / promised, math.nan)
    return (value - loss_after) / promised if told else math.nan
