"""The engine of a captured loss: schemes of its program, and double backward where these do not serve.

Under a transform of torch.func, or where autograd records, the same programs run operator by operator, so that they can
be differentiated and batched in turn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from alpha_func import tree
from alpha_func.capture.running.schemes import Schemes
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.directions import DirectionFunction, steepest_descent
from alpha_func.transforms.engine import Args, Engine, Kwargs
from alpha_func.transforms.strategies import Step
from alpha_func.tree import Tree

Lookup = Callable[[Tree, Args, Kwargs], tuple[Schemes, list[Tensor]]]


class Captured:
    """The engine of a captured loss.

    Args:
        lookup: the schemes of a call's signature, and the inputs of its program.
        backend: what runs them.
        by_strategy: the engine that differentiates the program by a strategy of torch.func.
    """

    def __init__(self, lookup: Lookup, backend: str, by_strategy: Engine):
        self._lookup, self._backend, self._by_strategy = lookup, backend, by_strategy

    def quadratic(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Quadratic:
        """By one forward sweep of the program."""
        schemes, inputs = self._lookup(params, args, kwargs)
        if not schemes.verified:
            return self._by_strategy.quadratic(params, direction, args, kwargs)
        operands = [*inputs, *_leaves(direction)]
        value, slope, curvature = schemes.quadratic.run(self._backend_for(operands), operands)
        return Quadratic(value, slope, curvature)

    def product(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Tree:
        """By the strategy: no scheme forms Hd."""
        return self._by_strategy.product(params, direction, args, kwargs)

    def step(self, params: Tree, direction: DirectionFunction, args: Args, kwargs: Kwargs) -> Step:
        """By the second-order adjoint: one program along −g, two with any other direction made in between."""
        schemes, inputs = self._lookup(params, args, kwargs)
        if not schemes.verified:
            return self._by_strategy.step(params, direction, args, kwargs)
        count, backend = schemes.params, self._backend_for(inputs)
        if direction is steepest_descent:
            value, slope, curvature, *rest = schemes.descent.run(backend, inputs)
            d = _like(params, rest[count:])
            return Step(_like(params, rest[:count]), d, Quadratic(value, slope, curvature))
        value, *rest = schemes.gradient.run(backend, inputs)
        grads = _like(params, rest[:count])
        d = direction(grads)
        operands = [*rest[count:], *_leaves(d)]
        slope, curvature = schemes.line.run(self._backend_for(operands), operands)
        return Step(grads, d, Quadratic(value, slope, curvature))

    def _backend_for(self, inputs: list[Tensor]) -> str:
        return self._backend if _plain(inputs) else "transformable"


def _plain(inputs: list[Tensor]) -> bool:
    """Whether nobody differentiates or batches this call."""
    if peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs))


def _leaves(value: Tree) -> list[Tensor]:
    return list(value.values()) if _is_flat(value) else tree.leaves(value)


def _like(params: Tree, leaves: Sequence[Any]) -> Tree:
    if _is_flat(params):
        return dict(zip(params, leaves, strict=True))
    return tree.unflatten(leaves, tree.structure(params))


def _is_flat(value: Tree) -> bool:
    return type(value) is dict and all(isinstance(leaf, Tensor) for leaf in value.values())
