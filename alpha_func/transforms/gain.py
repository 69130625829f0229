"""Whether the quadratic holds as far as a step reaches: one look at the loss where it ends."""

from collections.abc import Callable

from torch import Tensor

from alpha_func import tree
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.validation import aligned, check_params, require_callable, scalar_loss
from alpha_func.tree import Tree


def gain_ratio(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """(h(0) − h(α)) / (q(0) − q(α)), what a step gains over what the quadratic promises, with h(α) = L(θ + αd).

    Near 1, the quadratic holds as far as α; at 0 and below, the loss does not fall. α* is exact at θ, but may lie far
    outside the region where the quadratic holds: this ratio shows whether it does.

    Args:
        loss: as for ``quadratic_along``.

    Returns:
        ``(params, direction, quadratic, alpha, *args, **kwargs) -> ratio``, 0-d. ``quadratic`` is the loss's own along
        the direction, ``alpha`` a multiple of the direction: ``quadratic.alpha``, or any other. NaN where the
        rounding of the loss is a tenth of the predicted decrease or more. One forward pass.

    Raises:
        TypeError, ValueError: an argument is not as above.

    >>> import torch
    >>> from alpha_func import quadratic_along
    >>> loss, x, d = (lambda x: (x**4).sum()), torch.tensor([1.0]), torch.tensor([-1.0])
    >>> quadratic = quadratic_along(loss)(x, d)
    >>> gain_ratio(loss)(x, d, quadratic, quadratic.alpha)  # α* = 1/3: (1 − (2/3)⁴) / (2/3)
    tensor(1.2037)
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")

    def ratio(
        params: Tree, direction: Tree, quadratic: Quadratic, alpha: float | Tensor, *args: object, **kwargs: object
    ) -> Tensor:
        check_params(params)
        d = aligned(params, direction, "direction")
        if not isinstance(quadratic, Quadratic):
            raise TypeError(
                f"quadratic must be the Quadratic of the loss along direction, got {type(quadratic).__name__}: pass "
                "what quadratic_along(loss)(params, direction, *batch) returned"
            )
        after = scalar_loss(loss, args, kwargs)(tree.axpy(alpha, d, params))
        return quadratic.gain_ratio(after, alpha)

    return ratio
