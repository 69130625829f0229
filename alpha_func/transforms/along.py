"""Verbs beyond the quadratic of one line: further along it, and along several lines at once."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import mul

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.shards import any_sharded
from alpha_func.span import SpanQuadratic, symmetric
from alpha_func.taylor import Taylor
from alpha_func.torch_private import is_functorch_wrapped_tensor
from alpha_func.transforms.engine import Engine, engine_of
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import LOSS_SIGNATURE, accumulated, aligned, check_params, require_callable
from alpha_func.tree import Tree

# Sines of the angle between a direction and the span of others:
_FAR = 0.1  # what products in float32 tell from none with room to spare
_NEAR = 3e-7  # what products in float64 tell from none


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
        products, i = independent(given)
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


def independent(directions: Sequence[Tree]) -> tuple[Tensor, int | None]:
    """The Gram matrix, and the first direction that is a combination of those before it, to rounding; None too where
    there are no values.

    Products in float32 tell directions apart that are far from that; what is nearer is asked in float64.
    """
    products = gram(directions)
    if is_functorch_wrapped_tensor(products) or all(square > _FAR**2 for square in _squared_sines(products)):
        return products, None
    products = gram(directions, _double)
    least = max(_NEAR, *(16 * torch.finfo(x.dtype).eps for x in tree.leaves(directions)))
    # A NaN goes through, and shows in the numbers.
    return products, next((i for i, square in enumerate(_squared_sines(products)) if square <= least**2), None)


def gram(directions: Sequence[Tree], cast: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """dᵢᵀdⱼ of leaves that are cast, the sums over leaves in float64 where there is one, symmetric to the bit.

    >>> gram([torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])])
    tensor([[5., 6.],
            [6., 9.]], dtype=torch.float64)
    """
    k = range(len(directions))
    if any_sharded(tree.leaves(directions)):
        pairs = [[tree.map(cast, directions[m]) for m in (i, j)] for i in k for j in k[i:]]
        found = torch.stack([tree.vdot(*pair) for pair in pairs])
    else:
        rows = list(zip(*map(tree.leaves, directions), strict=True))
        products = [product for row in rows for product in _inner_products(list(map(cast, row)))]
        dtype = reduce(torch.promote_types, {product.dtype for product in products})
        each = torch.stack([product.to(products[0].device, dtype) for product in products])
        found = _double(each).reshape(len(rows), -1).sum(0)
    return symmetric(found.unbind(), len(k))


def _inner_products(xs: Sequence[Tensor]) -> list[Tensor]:
    """xᵢᵀxⱼ, i ≤ j, of leaves of one shape; a product of matrices this flat waits for all threads."""
    return [tree.leaf_vdot(x, y) for i, x in enumerate(xs) for y in xs[i:]]


def _double(x: Tensor) -> Tensor:
    if x.device.type == "mps":
        return x
    return x.to(torch.promote_types(x.dtype, torch.float64))


def _directions(params: Tree, directions: Sequence[Tree]) -> list[Tree]:
    if not isinstance(directions, (list, tuple)):
        raise TypeError(
            f"directions must be a list or tuple of trees with the structure of params, got {type(directions).__name__}"
        )
    if not directions:
        raise ValueError("directions is empty: pass at least one tree with the structure of params")
    return [aligned(params, d, f"directions[{i}]") for i, d in enumerate(directions)]


def _squared_sines(products: Tensor) -> Iterator[float]:
    """sin² of the angle of each direction to the span of those before it, 0 of a zero one, as far as none is 0.

    They are the pivots of Cholesky's factor of the cosines.
    """
    rows: list[list[float]] = []
    matrix = products.tolist()
    lengths = [math.sqrt(row[i]) for i, row in enumerate(matrix)]
    for i, row in enumerate(matrix):
        factors: list[float] = []
        for j, other in enumerate(rows):
            cosine = row[j] / lengths[i] / lengths[j] if lengths[i] else 1.0
            factors.append((cosine - sum(map(mul, factors, other))) / other[j])
        pivot = 1 - sum(map(mul, factors, factors)) if lengths[i] else 0.0
        yield pivot
        rows.append([*factors, math.sqrt(pivot)])
