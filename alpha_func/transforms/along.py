"""Verbs beyond the quadratic of one line: further along it, and along several lines at once."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import mul

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.shards import any_sharded
from alpha_func.span import SpanQuadratic
from alpha_func.taylor import Taylor
from alpha_func.torch_private import is_functorch_wrapped_tensor
from alpha_func.transforms.engine import Engine, engine_of
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import LOSS_SIGNATURE, accumulated, aligned, check_params, require_callable
from alpha_func.tree import Tree

_LEAST_ANGLE = 3e-7  # between a direction and the span of others: what products in float64 tell from none


def taylor_along(loss: Callable[..., Tensor], *, order: int = 3) -> Callable[..., Taylor]:
    """The derivatives of a loss along a direction up to an order: h, h′, ..., h⁽ᵏ⁾ at α = 0, exact to rounding.

    h(α) = L(θ + αd). The first three are the quadratic; the rest says how far that can be trusted: ``trust_radius``.

    Args:
        loss: pure function ``loss(params, *args, **kwargs)`` to a real 0-d tensor.
        order: k, at least 2.

    Returns:
        ``(params, direction, *args, **kwargs) -> Taylor``, operands as for ``quadratic_along``, the numbers 0-d and
        float32 or better. A captured loss takes one forward sweep of its program, without a backward: 2k + 1 products
        a linear layer, (k + 1)(k + 2)/2 a product of two activations, and memory that does not grow with depth; k = 2
        is ``quadratic_along``. Any other loss takes k nested reverse modes, each about three times the one before, and
        at the first use of a set of operators a check by finite differences, in float64.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        StrategyError: for an uncaptured loss, PyTorch's higher derivatives of an operator are wrong, or unchecked.

    >>> import torch
    >>> line = taylor_along(lambda x: (x**4).sum(), order=4)(torch.tensor([1.0]), torch.tensor([2.0]))
    >>> line.value, line.slope, line.curvature, line.higher
    (tensor(1.), tensor(8.), tensor(48.), (tensor(192.), tensor(384.)))
    """
    require_callable("loss", loss, LOSS_SIGNATURE)
    if isinstance(order, bool) or not isinstance(order, int):
        raise TypeError(f"order must be a whole number, got {type(order).__name__}")
    if order < 2:
        raise ValueError(
            f"order is {order}: expected at least 2, the quadratic; for less, use loss(params) or torch.func.grad"
        )
    engine = engine_of(loss, None)

    def taylor(params: Tree, direction: Tree, *args: object, **kwargs: object) -> Taylor:
        check_params(params)
        d = aligned(params, direction, "direction")
        if order == 2:
            found = Taylor(*engine.quadratic(params, d, args, kwargs), higher=())
        else:
            found = engine.taylor(params, d, order, args, kwargs)
        return tree.map(accumulated, found)

    return taylor


def quadratic_in_span(
    loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None
) -> Callable[..., SpanQuadratic]:
    """The local quadratic of a loss in the span of several directions: slopes dᵢᵀg and curvature dᵢᵀHdⱼ, exactly.

    q(c) = value + slopesᵀc + ½·cᵀ·curvature·c, for L(θ + Σ cᵢdᵢ).

    Args:
        loss: as for ``quadratic_along``.
        strategy: as for ``quadratic_along``. Left out: one gradient, differentiated along each direction; for a
            captured loss, the second-order adjoint of its program.

    Returns:
        ``(params, directions, *args, **kwargs) -> SpanQuadratic``, where directions is a list or tuple of k ≥ 1 trees,
        each with the structure of params. A captured loss takes 2 + 3k products a linear layer (k quadratics take 5k);
        any other takes one gradient and k backward passes through it.

    Raises:
        TypeError, ValueError: an argument is not as above; the directions are linearly dependent, to rounding (not
            checked under a transform, where there are no values).
        StrategyError: as for ``quadratic_along``.

    >>> import torch
    >>> q = quadratic_in_span(lambda x: (x**2).sum() + x.prod())(torch.tensor([1.0, 2.0]), list(torch.eye(2)))
    >>> q.slopes, q.curvature, q.minimizer()
    (tensor([4., 5.]), tensor([[2., 1.],
            [1., 2.]]), tensor([-1., -2.]))
    """
    require_callable("loss", loss, LOSS_SIGNATURE)
    engine = engine_of(loss, strategy)

    def span(params: Tree, directions: Sequence[Tree], *args: object, **kwargs: object) -> SpanQuadratic:
        check_params(params)
        given = _directions(params, directions)
        products = gram(given)
        i = dependent(products, given)
        if i is not None:
            why = "is a linear combination of those before it, to rounding" if products[i, i] else "is zero"
            raise ValueError(f"directions[{i}] {why}: leave it out")
        return in_span(engine, params, given, products, args, kwargs)

    return span


def in_span(
    engine: Engine, params: Tree, directions: Sequence[Tree], products: Tensor, args: Args, kwargs: Kwargs
) -> SpanQuadratic:
    """The quadratic in the span of directions that are checked, of which these are the inner products."""
    found = [accumulated(number) for number in engine.span(params, directions, args, kwargs)]
    dtype = reduce(torch.promote_types, (number.dtype for number in found))
    return SpanQuadratic(*(number.to(dtype) for number in (*found, products)))


def gram(directions: Sequence[Tree]) -> Tensor:
    """dᵢᵀdⱼ in float64 where there is one, symmetric to the bit.

    >>> gram([torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])])
    tensor([[5., 6.],
            [6., 9.]], dtype=torch.float64)
    """
    k = range(len(directions))
    if any_sharded(tree.leaves(directions)):
        found = [tree.vdot(*(tree.map(Tensor.double, directions[m]) for m in (i, j))) for i in k for j in range(i + 1)]
    else:
        rows = zip(*map(tree.leaves, directions), strict=True)
        first, *others = (torch.stack(_inner_products(row)) for row in rows)
        found = list(sum((products.to(first.device) for products in others), first).unbind())
    return torch.stack([torch.stack([found[max(i, j) * (max(i, j) + 1) // 2 + min(i, j)] for j in k]) for i in k])


def _directions(params: Tree, directions: Sequence[Tree]) -> list[Tree]:
    if not isinstance(directions, (list, tuple)):
        raise TypeError(
            f"directions must be a list or tuple of trees with the structure of params, got {type(directions).__name__}"
        )
    if not directions:
        raise ValueError("directions is empty: pass at least one tree with the structure of params")
    return [aligned(params, d, f"directions[{i}]") for i, d in enumerate(directions)]


def dependent(products: Tensor, directions: Sequence[Tree]) -> int | None:
    """The first direction that is a combination of those before it, to rounding; None too where there are no values.

    By the pivots of Cholesky's factor of the cosines: sin² of the angle to the span of those before.
    """
    if is_functorch_wrapped_tensor(products):
        return None
    rows: list[list[float]] = []
    lengths = products.detach().diagonal().sqrt().tolist()
    least = max(_LEAST_ANGLE, *(16 * torch.finfo(leaf.dtype).eps for leaf in tree.leaves(directions)))
    for i, row in enumerate(products.detach().tolist()):
        if lengths[i] == 0:
            return i
        factors: list[float] = []
        for j, other in enumerate(rows):
            cosine = row[j] / (lengths[i] * lengths[j])
            factors.append((cosine - sum(map(mul, factors, other))) / other[j])
        pivot = 1 - sum(map(mul, factors, factors))
        if pivot <= least**2:  # a NaN goes through, and shows in the numbers
            return i
        rows.append([*factors, math.sqrt(pivot)])
    return None


def _inner_products(leaves: Sequence[Tensor]) -> list[Tensor]:
    """xᵢᵀxⱼ, j ≤ i, of leaves of one shape; a product of matrices this flat waits for all threads."""
    xs = [(torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).reshape(-1) for x in leaves]
    xs = [x if x.device.type == "mps" else x.double() for x in xs]
    return [torch.dot(x, y) for i, x in enumerate(xs) for y in xs[: i + 1]]
