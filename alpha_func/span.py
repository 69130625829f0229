"""The quadratic of a loss in the span of several directions, and all that follows from its numbers.

For directions d₁, ..., d_k and coefficients c, the loss at θ + Σ cᵢdᵢ has the local quadratic

    q(c) = value + slopesᵀc + ½·cᵀ·curvature·c        slopesᵢ = dᵢᵀg    curvatureᵢⱼ = dᵢᵀHdⱼ    gramᵢⱼ = dᵢᵀdⱼ
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class SpanQuadratic(NamedTuple):
    """The local quadratic q(c) of a loss in the span of k directions.

    A NamedTuple of real tensors, so a pytree: it goes through ``vmap``, and stacks.

    Attributes:
        value: L(θ), of shape ().
        slopes: dᵢᵀg, of shape (k,).
        curvature: dᵢᵀHdⱼ, symmetric, of shape (k, k).
        gram: dᵢᵀdⱼ, of shape (k, k).

    >>> import torch
    >>> curvature, gram = torch.diag(torch.tensor([2.0, 4.0])), torch.eye(2)
    >>> q = SpanQuadratic(torch.tensor(3.0), torch.tensor([-2.0, 4.0]), curvature, gram)
    >>> q.minimizer(), q.minimum
    (tensor([ 1., -1.]), tensor(0.))
    >>> q.minimizer(fixed={1: 0.5})
    tensor([1.0000, 0.5000])
    >>> q.minimizer(damping=2.0)
    tensor([ 0.5000, -0.6667])
    """

    value: Tensor
    slopes: Tensor
    curvature: Tensor
    gram: Tensor

    def __call__(self, coefficients: Tensor) -> Tensor:
        """q(c), for c of shape (..., k)."""
        c = torch.as_tensor(coefficients, dtype=self.slopes.dtype, device=self.slopes.device)
        return self.value + (c * self.slopes).sum(-1) + (c * (c @ self.curvature)).sum(-1) / 2

    def minimizer(self, *, damping: float | Tensor = 0.0, fixed: Mapping[int, float | Tensor] | None = None) -> Tensor:
        """The c at which q(c) + ½·damping·‖Σ cᵢdᵢ‖² is stationary, some of its entries held.

        IEEE semantics, as ``Quadratic.alpha``: where the matrix is singular the entries are not finite, and where it is
        not positive definite c is not a minimum: see ``is_minimum``.

        Args:
            damping: λ, as a multiple of the identity in the space of the parameters: what it adds is λ·gram.
            fixed: the coefficients that are held, by index.

        Returns:
            c, of shape (k,).

        Raises:
            ValueError: an index of ``fixed`` is not that of a direction.
        """
        k = self.slopes.shape[-1]
        held = {} if fixed is None else dict(fixed)
        unknown = [i for i in held if i not in range(k)]
        if unknown:
            raise ValueError(f"fixed holds coefficient {unknown[0]!r}: the {k} directions are 0 to {k - 1}")
        matrix = self.curvature + damping * self.gram
        free = [i for i in range(k) if i not in held]
        c = [torch.as_tensor(held.get(i, 0.0), dtype=matrix.dtype, device=matrix.device) for i in range(k)]
        if free:
            rhs = -(self.slopes + matrix @ torch.stack(c))[free]
            # solve raises where the matrix is singular; solve_ex leaves what IEEE makes of it.
            found = torch.linalg.solve_ex(matrix[free][:, free], rhs).result
            for i, value in zip(free, found.unbind(), strict=True):
                c[i] = value
        return torch.stack(c)

    @property
    def minimum(self) -> Tensor:
        """q at its minimizer; the least value of q where ``is_minimum``."""
        return self(self.minimizer())

    @property
    def is_minimum(self) -> Tensor:
        """Whether q has a minimum: the curvature is positive definite."""
        return torch.linalg.eigvalsh(self.curvature)[..., 0] > 0
