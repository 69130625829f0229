"""The Taylor polynomial of a line, and how far its first three terms can be trusted.

For a loss L, parameters θ and a direction d,

    h(α) = L(θ + αd) = Σ_j h⁽ʲ⁾·αʲ/j! + O(αᵏ⁺¹)        q(α) its terms up to α²: the quadratic of the line
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alpha_func.quadratic import Quadratic

_NEWTON_STEPS = 64  # from at most 2k times the root of a convex polynomial of degree k


class Taylor(NamedTuple):
    """The derivatives of a loss along a direction, up to order k; the first three are its quadratic.

    A NamedTuple of real tensors of one shape, so a pytree: it goes through ``vmap``, stacks and indexes.

    Attributes:
        value: L(θ), in units of the loss.
        slope: h′ = dᵀg, loss per unit of α.
        curvature: h″ = dᵀHd, loss per unit of α².
        higher: h‴, ..., h⁽ᵏ⁾; empty for k = 2.

    >>> import torch
    >>> line = Taylor(*torch.tensor([1.0, -4.0, 8.0]), higher=(torch.tensor(6.0),))
    >>> line(0.5) == line.quadratic(0.5) + 6 * 0.5**3 / 6
    tensor(True)
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor
    higher: tuple[Tensor, ...]

    @staticmethod
    def linear_in_loss() -> tuple[str, ...]:
        """The fields that of a sum of losses are sums."""
        return "value", "slope", "curvature", "higher"

    @property
    def derivatives(self) -> tuple[Tensor, ...]:
        """h, h′, ..., h⁽ᵏ⁾."""
        return (self.value, self.slope, self.curvature, *self.higher)

    @property
    def quadratic(self) -> Quadratic:
        """The first three terms, with α*, the minimum and all that follows from them."""
        return Quadratic(self.value, self.slope, self.curvature)

    def __call__(self, alpha: float | Tensor) -> Tensor:
        """Σ_j h⁽ʲ⁾·αʲ/j!, for α a multiple of d that broadcasts against the fields."""
        total: Any = 0.0
        for j, derivative in reversed(list(enumerate(self.derivatives))):
            total = derivative + alpha * total / (j + 1)
        return total

    def trust_radius(self, tolerance: float | Tensor = 0.1) -> Tensor:
        """The |α| up to which the quadratic is within a share of itself.

        The one r > 0 with Σ_{j ≥ 3} |h⁽ʲ⁾|·rʲ/j! = tolerance·(|h′|·r + ½·|h″|·r²): for every |α| ≤ r, the terms that
        the quadratic leaves out are at most that share of the terms that it keeps. Signs are ignored, so terms that
        cancel at some α do not make r larger. ∞ where all higher derivatives are zero; derivatives beyond k are
        ignored.

        Args:
            tolerance: the share, above 0.

        Returns:
            r, a multiple of d, of the shape of the fields.

        Raises:
            TypeError, ValueError: there are no higher derivatives, or the share is not a finite number above 0.

        >>> import torch
        >>> Taylor(*torch.tensor([1.0, 0.0, 8.0]), higher=(torch.tensor(6.0),)).trust_radius(0.5)
        tensor(2.)
        """
        if not self.higher:
            raise ValueError("trust_radius needs a derivative beyond the second: take taylor_along(loss, order=3)")
        if isinstance(tolerance, bool) or not isinstance(tolerance, Tensor | float | int):
            raise TypeError(f"tolerance must be a share above 0, such as 0.1, got {tolerance!r}")
        if not isinstance(tolerance, Tensor) and not 0 < tolerance < math.inf:
            raise ValueError(f"tolerance is {tolerance}: give a share above 0, such as 0.1")
        slope, curvature = tolerance * self.slope.abs(), tolerance * self.curvature.abs() / 2
        factors, factorial = [], 2.0
        for j, derivative in enumerate(self.higher, 3):
            factorial *= j
            factors.append(derivative.abs() / factorial)
        absent = [c == 0 for c in factors]
        present = [torch.where(none, 1.0, c) for none, c in zip(absent, factors, strict=True)]  # no 0/0 in a gradient
        # Of each term alone the root is at most the greater of two powers; that of the sum is below the least of all.
        bounds = [
            torch.maximum((2 * slope / c) ** (1 / (j - 1)), (2 * curvature / c) ** (1 / (j - 2)))
            for j, c in enumerate(present, 3)
        ]
        r = torch.stack([torch.where(none, torch.inf, x) for none, x in zip(absent, bounds, strict=True)]).amin(0)
        is_finite = r.isfinite() & (r > 0)
        x = torch.where(is_finite, r, 1.0)
        for _ in range(_NEWTON_STEPS):  # p is convex and r right of its root: Newton's steps come down to it
            p, dp = -slope - curvature * x, -curvature
            for j, c in enumerate(factors, 3):
                p, dp = p + c * x ** (j - 1), dp + (j - 1) * c * x ** (j - 2)
            x = torch.where(dp > 0, x - p / dp, x)
        return torch.where(is_finite, x, r)
