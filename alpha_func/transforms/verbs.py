"""The verbs: a loss in, a pure function out.

A loss L is a pure function ``loss(params, *args, **kwargs)`` of a pytree of parameters θ to a real 0-d tensor. Each
transform returns a pure function of (params, ..., *args, **kwargs) that composes with torch.func: ``vmap`` over
directions or over examples, ``grad`` through α* (of a captured loss where it holds a ``layer_norm`` or train-mode
``batch_norm``: PyTorch's third derivatives of these are wrong, and refused). Costs are in gradients of the loss.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.losses.likelihood import natural, require_likelihood
from alpha_func.losses.parting import parted
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.directions import DirectionFunction, steepest_descent
from alpha_func.transforms.engine import engine_of
from alpha_func.transforms.strategies import Step, StrategyLike
from alpha_func.transforms.validation import LOSS_SIGNATURE, Aligned, aligned, check_params, require_callable
from alpha_func.tree import Tree

CURVATURES = ("hessian", "gauss_newton", "fisher")
_ACCUMULATORS = frozenset((torch.float32, torch.float64))


def quadratic_along(
    loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None, curvature: str = "hessian"
) -> Callable[..., Quadratic]:
    """The local quadratic of a loss along a direction: value L(θ), slope dᵀg, curvature dᵀHd, exact to rounding.

    Args:
        loss: pure function ``loss(params, *args, **kwargs)`` to a real 0-d tensor.
        strategy: a name in STRATEGIES, or a function ``(loss_of_params, params, direction) -> Quadratic``. Left out:
            "reverse_over_reverse"; for a captured loss, one Taylor sweep of its program.
        curvature: the matrix that is used. "hessian": dᵀHd. "gauss_newton": dᵀGd = (Jd)ᵀ∇²ψ(Jd), J the Jacobian of the
            module's outputs and ∇²ψ the Hessian of the criterion in them: never negative where the criterion is convex,
            and H where the module is linear; it needs a loss of ``functional_loss(module, criterion)``. "fisher":
            dᵀFd, F the Fisher information, where the criterion is the negative log-likelihood of its targets: their
            distribution is the model's own. It is G, but for NLLLoss and BCELoss, which take probabilities.

    Returns:
        ``(params, direction, *args, **kwargs) -> Quadratic``, where params is a non-empty pytree of real floating-point
        tensors and direction one of the same structure, shapes, dtypes and devices. α is a multiple of the direction.
        The three numbers are 0-d, float32 or better. The cost is two to three gradients; nothing of the size of H is
        formed. Gauss-Newton costs less: for a captured loss, a forward sweep with 3 products a linear layer instead of
        5.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        StrategyError: PyTorch cannot run the strategy on an operator of the loss, or is known to compute it wrongly.

    >>> import torch
    >>> def loss(x):
    ...     return (x**2).sum()
    >>> quadratic_along(loss)(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
    Quadratic(value=tensor(5.), slope=tensor(2.), curvature=tensor(2.))
    """
    require_callable("loss", loss, LOSS_SIGNATURE)
    engine, checked = engine_of(loss, strategy), Aligned()
    if curvature not in CURVATURES:
        raise ValueError(f"curvature {curvature!r} is unknown: choose from {', '.join(CURVATURES)}")
    if curvature != "hessian":
        criterion, of_natural = parted(loss, curvature).criterion, False
        if curvature == "fisher":
            require_likelihood(criterion)
            of_natural = natural(criterion) is not None

        def gauss_newton(params: Tree, direction: Tree, inputs: object, targets: object) -> Quadratic:
            d = checked(params, direction)
            return _accumulated(engine.gauss_newton(params, d, of_natural, (inputs, targets), {}))

        return gauss_newton

    def quadratic(params: Tree, direction: Tree, *args: object, **kwargs: object) -> Quadratic:
        return _accumulated(engine.quadratic(params, checked(params, direction), args, kwargs))

    return quadratic


def optimal_alpha(loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None) -> Callable[..., Tensor]:
    """α* = −dᵀg / dᵀHd, where the local quadratic of the loss along d is stationary.

    The quadratic's ``alpha`` alone, with IEEE semantics: a zero direction gives NaN, zero curvature ±inf, and negative
    curvature a maximum; ``quadratic_along`` tells them apart.

    Args:
        loss: as for ``quadratic_along``.
        strategy: as for ``quadratic_along``.

    Returns:
        ``(params, direction, *args, **kwargs) -> α*``, 0-d, a multiple of the direction. Costs and errors are those of
        ``quadratic_along``.

    >>> import torch
    >>> optimal_alpha(lambda x: (x**2).sum())(torch.tensor([1.0, 2.0]), torch.tensor([-2.0, -4.0]))
    tensor(0.5000)
    """
    quadratic = quadratic_along(loss, strategy=strategy)

    def alpha(params: Tree, direction: Tree, *args: object, **kwargs: object) -> Tensor:
        return quadratic(params, direction, *args, **kwargs).alpha

    return alpha


def hvp(loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None) -> Callable[..., Tree]:
    """The Hessian-vector product Hd, without H.

    Args:
        loss: as for ``quadratic_along``.
        strategy: as for ``quadratic_along``; one that never forms Hd gives it as ½∇_d(dᵀHd), at about twice the cost.

    Returns:
        ``(params, direction, *args, **kwargs) -> Hd``, a pytree with the structure, shapes and dtypes of params. Two to
        three gradients. Errors are those of ``quadratic_along``.

    >>> import torch
    >>> hvp(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor([ 6., 12.])
    """
    require_callable("loss", loss, LOSS_SIGNATURE)
    engine, checked = engine_of(loss, strategy), Aligned()

    def product(params: Tree, direction: Tree, *args: object, **kwargs: object) -> Tree:
        return engine.product(params, checked(params, direction), args, kwargs)

    return product


def grad_and_quadratic(
    loss: Callable[..., Tensor],
    direction: DirectionFunction = steepest_descent,
    *,
    strategy: StrategyLike | None = None,
) -> Callable[..., Step]:
    """The gradient, a direction computed from it, and the quadratic of the loss along that direction.

    Args:
        loss: as for ``quadratic_along``.
        direction: pure function of the gradients that returns a pytree of their structure, shapes and dtypes.
        strategy: as for ``quadratic_along``. Left out: double backward, which shares the gradient with the quadratic;
            for a captured loss, the second-order adjoint of its program.

    Returns:
        ``(params, *args, **kwargs) -> Step(grads, direction, quadratic)``. Two to four gradients. Errors are those of
        ``quadratic_along``; a direction of another structure is refused as ``direction(grads)``.

    >>> import torch
    >>> step = grad_and_quadratic(lambda x: (x**2).sum())(torch.tensor([1.0, 2.0]))
    >>> step.grads, step.direction, step.quadratic.alpha
    (tensor([2., 4.]), tensor([-2., -4.]), tensor(0.5000))
    """
    require_callable("loss", loss, LOSS_SIGNATURE)
    require_callable("direction", direction, "(grads)")
    engine = engine_of(loss, strategy)

    def step(params: Tree, *args: object, **kwargs: object) -> Step:
        check_params(params)

        def checked(grads: Tree) -> Tree:
            return aligned(params, direction(grads), "direction(grads)")

        # Engines know −g by its name: it needs no check, and a captured loss has a program for it.
        found = engine.step(params, direction if direction is steepest_descent else checked, args, kwargs)
        return found._replace(quadratic=_accumulated(found.quadratic))

    return step


def _accumulated(quadratic: Quadratic) -> Quadratic:
    """The three numbers in float32 or better, whatever the dtype of the loss."""
    if _ACCUMULATORS.issuperset([number.dtype for number in quadratic]):
        return quadratic
    return Quadratic(*(number.to(tree.accumulator_dtype(number.dtype)) for number in quadratic))
