"""The quadratic of a loss in the span of several directions, and all that follows from its numbers.

For directions d₁, ..., d_k and coefficients c, the loss at θ + Σ cᵢdᵢ has the local quadratic

    q(c) = value + slopesᵀc + ½·cᵀ·curvature·c        slopesᵢ = dᵢᵀg    curvatureᵢⱼ = dᵢᵀHdⱼ    gramᵢⱼ = dᵢᵀdⱼ
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SpanQuadratic(NamedTuple):
    """The local quadratic q(c) of a loss in the span of k directions.

    A NamedTuple of real tensors, so a pytree: it goes through ``vmap``, and stacks (further dimensions come first).

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

    @staticmethod
    def linear_in_loss() -> tuple[str, ...]:
        """The fields that of a sum of losses are sums. The Gram matrix is of the directions alone."""
        return "value", "slopes", "curvature"

    def __call__(self, coefficients: Tensor) -> Tensor:
        """q(c), for c of shape (..., k)."""
        c = torch.as_tensor(coefficients, dtype=self.slopes.dtype, device=self.slopes.device)
        k = self.slopes.shape[-1]
        if c.shape[-1:] != (k,):
            raise ValueError(f"coefficients have shape {tuple(c.shape)}: give a last dimension of {k}, the directions'")
        Hc = (self.curvature @ c[..., None])[..., 0]
        return self.value + (c * self.slopes).sum(-1) + (c * Hc).sum(-1) / 2

    def minimizer(self, *, damping: float | Tensor = 0.0, fixed: Mapping[int, float | Tensor] | None = None) -> Tensor:
        """The c at which q(c) + ½·damping·‖Σ cᵢdᵢ‖² is stationary, some of its entries held.

        IEEE semantics, as ``Quadratic.alpha``: where the matrix is singular the entries are not finite, and where it is
        not positive definite c is not a minimum: see ``is_minimum``.

        Args:
            damping: λ ≥ 0, as a multiple of the identity in the space of the parameters: what it adds is λ·gram.
            fixed: the coefficients that are held, by index.

        Returns:
            c, of shape (k,).

        Raises:
            TypeError, ValueError: ``damping`` or ``fixed`` is not as above.
        """
        not_negative("damping", damping)
        k = self.slopes.shape[-1]
        if fixed is not None and not isinstance(fixed, Mapping):
            raise TypeError(f"fixed must be a dict of index to coefficient, such as {{1: 0.9}}, got {fixed!r}")
        held = {} if fixed is None else dict(fixed)
        unknown = [i for i in held if i not in range(k)]
        if unknown:
            raise ValueError(f"fixed holds coefficient {unknown[0]!r}: the {k} directions are 0 to {k - 1}")
        for i, value in held.items():
            if not isinstance(value, Tensor | float | int) or (isinstance(value, Tensor) and value.ndim):
                raise TypeError(f"fixed[{i}] must be a number, got {value!r}")
        λ = torch.as_tensor(damping, dtype=self.gram.dtype, device=self.gram.device)
        matrix = self.curvature + λ[..., None, None] * self.gram
        free = [i for i in range(k) if i not in held]
        zero = torch.zeros_like(self.slopes[..., 0])
        c = [zero + torch.as_tensor(held.get(i, 0.0), dtype=zero.dtype, device=zero.device) for i in range(k)]
        if free:
            rhs = -(self.slopes + (matrix @ torch.stack(c, -1)[..., None])[..., 0])[..., free]
            # solve raises where the matrix is singular; solve_ex leaves what IEEE makes of it.
            found = torch.linalg.solve_ex(matrix[..., free, :][..., free], rhs[..., None]).result[..., 0]
            for i, value in zip(free, found.unbind(-1), strict=True):
                c[i] = value
        return torch.stack(c, -1)

    @property
    def minimum(self) -> Tensor:
        """q at its minimizer; the least value of q where ``is_minimum``."""
        return self(self.minimizer())

    @property
    def is_minimum(self) -> Tensor:
        """Whether q has a minimum: the curvature is positive definite."""
        return torch.linalg.eigvalsh(self.curvature)[..., 0] > 0


def symmetric(upper: Sequence[Tensor], k: int) -> Tensor:
    """The symmetric matrix of which these are the entries of the rows from the diagonal on.

    >>> symmetric(torch.tensor([1.0, 2.0, 3.0]).unbind(), 2)
    tensor([[1., 2.],
            [2., 3.]])
    """
    row = [i * k - i * (i - 1) // 2 - i for i in range(k)]  # where the entry of column 0 would be
    return torch.stack([upper[row[min(i, j)] + max(i, j)] for i in range(k) for j in range(k)]).reshape(k, k)


def not_negative(name: str, value: object) -> None:
    """Refuse what is not a number of at least 0; a tensor goes through, as there may be no value to see."""
    if isinstance(value, Tensor):
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of at least 0, got {value!r}")
    if not value >= 0:
        raise ValueError(f"{name} is {value}: give a number of at least 0")
