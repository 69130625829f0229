"""The compositions of torch.func that give dᵀHd; one function each.

    θ   params, a pytree of tensors          L   loss, a pure function of params alone, to a 0-d tensor
    d   direction, of the structure of θ     g = ∇L(θ), H = ∇²L(θ); neither H nor any matrix of its size is formed

A strategy is a function ``(loss, params, direction) -> Quadratic``, and the caller's own serves as well as these:

    ===================== ============= ==========================================================
    forward_over_reverse  jvp(grad)     Pearlmutter (1994), "Fast exact multiplication by the Hessian"
    reverse_over_reverse  vjp(grad)     double backward: H is symmetric, so Hᵀd = Hd
    reverse_over_forward  grad(jvp)     the gradient of the slope θ ↦ dᵀ∇L(θ) is Hd
    forward_over_forward  jvp(jvp)      the second derivative of α ↦ L(θ + αd); Hd never appears
    ===================== ============= ==========================================================

The first three pass through Hd. A ``Strategy`` is such a function with its name and what else it gives. Inner functions
trust: operands are validated in ``transforms``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, func

from alpha_func import tree
from alpha_func.quadratic import Quadratic
from alpha_func.torch_private import forward_level, peek_interpreter_stack
from alpha_func.transforms.directions import DirectionFunction
from alpha_func.tree import Tree

T = TypeVar("T")
Loss = Callable[[Tree], Tensor]
ValueSlopeProduct = tuple[Tensor, Tensor, Tree]  # L(θ), dᵀg, Hd


class Step(NamedTuple):
    """What one step knows: the gradient g, the direction d = direction(g), and the quadratic along d."""

    grads: Tree
    direction: Tree
    quadratic: Quadratic


class Products(NamedTuple):
    """L(θ), the gradient g, and Hd for each of several directions."""

    value: Tensor
    grads: Tree
    products: list[Tree]


@dataclass(frozen=True, eq=False)
class Strategy:
    """How the quadratic of a line is computed, by name; called, it gives the quadratic.

    Attributes:
        name: its key in STRATEGIES, or the name of the caller's own function.
        function: ``(loss, params, direction) -> Quadratic``.
        through_product: the same by way of Hd, for a strategy that forms it: (L(θ), dᵀg, Hd).
        shared_step: a step that shares the gradient with the quadratic, where the strategy can.
        shared_products: products with several directions that share the gradient, where the strategy can.

    >>> import torch
    >>> STRATEGIES["forward_over_forward"].product(lambda x: (x**3).sum(), torch.tensor([2.0]), torch.tensor([1.0]))
    tensor([12.])
    """

    name: str
    function: Callable[[Loss, Tree, Tree], Quadratic]
    through_product: Callable[[Loss, Tree, Tree], ValueSlopeProduct] | None = None
    shared_step: Callable[[Loss, Tree, DirectionFunction], Step] | None = None
    shared_products: Callable[[Loss, Tree, Sequence[Tree]], Products] | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is one of STRATEGIES, and not the caller's own."""
        return STRATEGIES.get(self.name) is self

    def quadratic(self, loss: Loss, params: Tree, direction: Tree) -> Quadratic:
        """The quadratic of ``loss`` at ``params`` along ``direction``; all of them valid."""
        return self.function(loss, params, direction)

    __call__ = quadratic

    def product(self, loss: Loss, params: Tree, direction: Tree) -> Tree:
        """Hd; by the identity Hd = ½∇_d(dᵀHd), at about twice the cost, where the strategy never forms it."""
        if self.through_product is not None:
            return self.through_product(loss, params, direction)[2]
        return func.grad(lambda d: self.function(loss, params, d).curvature / 2)(direction)

    def step(self, loss: Loss, params: Tree, direction: DirectionFunction) -> Step:
        """The gradient, the direction it gives, and the quadratic along it."""
        if self.shared_step is not None:
            return self.shared_step(loss, params, direction)
        grads = func.grad(loss)(params)
        d = direction(grads)
        return Step(grads, d, self.function(loss, params, d))

    def products(self, loss: Loss, params: Tree, directions: Sequence[Tree]) -> Products:
        """The value, the gradient, and Hd for each direction."""
        if self.shared_products is not None:
            return self.shared_products(loss, params, directions)
        grads, value = func.grad_and_value(loss)(params)
        return Products(value, grads, [self.product(loss, params, d) for d in directions])


StrategyLike = str | Strategy | Callable[[Loss, Tree, Tree], Quadratic]  # what stands for one in an argument


def forward_over_reverse(loss: Loss, params: Tree, direction: Tree) -> Quadratic:
    """jvp of grad: dᵀHd = dᵀ(∂/∂α ∇L(θ + αd)).

    Exact for Linear, convolution, normalisation and attention layers. PyTorch cannot run it on ``F.mse_loss``
    (pytorch#123996), ``F.huber_loss`` and LSTMs.

    >>> import torch
    >>> forward_over_reverse(lambda x: (x**3).sum(), torch.tensor([2.0]), torch.tensor([1.0]))
    Quadratic(value=tensor(8.), slope=tensor(12.), curvature=tensor(12.))
    """
    return _contract(direction, _jvp_of_grad(loss, params, direction))


def reverse_over_reverse(loss: Loss, params: Tree, direction: Tree) -> Quadratic:
    """vjp of grad, double backward: dᵀHd = dᵀ(Hᵀd).

    The default: PyTorch runs it on the most layers, and it shares the gradient with ``grad_and_quadratic``.

    >>> import torch
    >>> reverse_over_reverse(lambda x: (x**3).sum(), torch.tensor([2.0]), torch.tensor([1.0]))
    Quadratic(value=tensor(8.), slope=tensor(12.), curvature=tensor(12.))
    """
    return _contract(direction, _vjp_of_grad(loss, params, direction))


def reverse_over_forward(loss: Loss, params: Tree, direction: Tree) -> Quadratic:
    """grad of jvp: dᵀHd = dᵀ∇(θ ↦ dᵀ∇L(θ)).

    PyTorch's derivatives of the forward rules of ``layer_norm`` and train-mode ``batch_norm`` are wrong
    (pytorch#196700, #196699), and so is this strategy on them.

    >>> import torch
    >>> reverse_over_forward(lambda x: (x**3).sum(), torch.tensor([2.0]), torch.tensor([1.0]))
    Quadratic(value=tensor(8.), slope=tensor(12.), curvature=tensor(12.))
    """
    return _contract(direction, _grad_of_jvp(loss, params, direction))


def forward_over_forward(loss: Loss, params: Tree, direction: Tree) -> Quadratic:
    """jvp of jvp: dᵀHd = ∂²/∂α² L(θ + αd) at α = 0. No backward pass, no stored activations.

    PyTorch's derivatives of the forward rules of ``layer_norm`` and train-mode ``batch_norm`` are wrong
    (pytorch#196700, #196699), and so is this strategy on them.

    >>> import torch
    >>> forward_over_forward(lambda x: (x**3).sum(), torch.tensor([2.0]), torch.tensor([1.0]))
    Quadratic(value=tensor(8.), slope=tensor(12.), curvature=tensor(12.))
    """

    def value_and_slope(params: Tree) -> tuple[Tensor, Tensor]:
        return pushforward(loss, params, direction)

    (value, slope), (_, curvature) = pushforward(value_and_slope, params, direction)
    return Quadratic(value, slope, curvature)


def pushforward(function: Callable[[Tree], T], params: Tree, direction: Tree) -> tuple[T, T]:
    """func.jvp, with autograd on as it is within func.grad: a ``no_grad`` inside is then the loss's own."""
    with torch.enable_grad():
        found: Any = func.jvp(function, (params,), (direction,))
    if torch.is_grad_enabled() or peek_interpreter_stack() is not None or forward_level() >= 0:
        return found
    return tree.map(Tensor.detach, found)


def _jvp_of_grad(loss: Loss, params: Tree, direction: Tree) -> ValueSlopeProduct:
    (grads, value), (hd, _) = func.jvp(func.grad_and_value(loss), (params,), (direction,))
    return value, tree.vdot(direction, grads), hd


def _vjp_of_grad(loss: Loss, params: Tree, direction: Tree) -> ValueSlopeProduct:
    grads, pullback, value = _gradient_pullback(loss, params)
    (hd,) = pullback(direction)
    return value, tree.vdot(direction, grads), hd


def _gradient_pullback(loss: Loss, params: Tree) -> tuple[Tree, Callable[[Tree], tuple[Tree]], Tensor]:
    """∇L(θ), the pullback v ↦ (Hᵀv,), and L(θ).

    The inner gradient is torch.autograd's, which inside func.vjp needs no functorch level of its own: a fifth less
    time on a tiny net than func.vjp(func.grad).
    """

    def gradient_and_value(params: Tree) -> tuple[Tree, Tensor]:
        value = loss(params)
        leaves, structure = tree.flatten(params)
        if not value.requires_grad:  # a loss that does not depend on the parameters
            return tree.zeros_like(params), value
        grads = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
        return tree.unflatten(grads, structure), value

    return func.vjp(gradient_and_value, params, has_aux=True)


def _grad_of_jvp(loss: Loss, params: Tree, direction: Tree) -> ValueSlopeProduct:
    def slope_and_value(params: Tree) -> tuple[Tensor, Tensor]:
        value, slope = func.jvp(loss, (params,), (direction,))
        return slope, value

    hd, (slope, value) = func.grad_and_value(slope_and_value, has_aux=True)(params)
    return value, slope, hd


def _contract(direction: Tree, value_slope_product: ValueSlopeProduct) -> Quadratic:
    value, slope, hd = value_slope_product
    return Quadratic(value, slope, tree.vdot(direction, hd))


def _shared_double_backward(loss: Loss, params: Tree, direction: DirectionFunction) -> Step:
    """As ``reverse_over_reverse``, the direction taken from the gradient that it differentiates."""
    grads, pullback, value = _gradient_pullback(loss, params)
    d = direction(grads)
    (hd,) = pullback(d)
    return Step(grads, d, Quadratic(value, tree.vdot(d, grads), tree.vdot(d, hd)))


def _products_by_double_backward(loss: Loss, params: Tree, directions: Sequence[Tree]) -> Products:
    """As ``reverse_over_reverse``, one gradient differentiated along each direction."""
    grads, pullback, value = _gradient_pullback(loss, params)
    return Products(value, grads, [pullback(d)[0] for d in directions])


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("forward_over_reverse", forward_over_reverse, _jvp_of_grad),
        Strategy(
            "reverse_over_reverse",
            reverse_over_reverse,
            _vjp_of_grad,
            _shared_double_backward,
            _products_by_double_backward,
        ),
        Strategy("reverse_over_forward", reverse_over_forward, _grad_of_jvp),
        Strategy("forward_over_forward", forward_over_forward),
    )
}
DEFAULT_STRATEGY = "reverse_over_reverse"
