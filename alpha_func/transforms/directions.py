"""From gradients to the direction of a step.

A direction is a pure function of the gradients g that returns a pytree of their structure, shapes and dtypes. α is a
multiple of it: for d = −g, a learning rate of plain SGD.
"""

from collections.abc import Callable

from alpha_func import tree
from alpha_func.tree import Tree

DirectionFunction = Callable[[Tree], Tree]


def steepest_descent(grads: Tree) -> Tree:
    """d = −g: the step of plain SGD with learning rate 1.

    Args:
        grads: the gradient g, any pytree of tensors.

    Returns:
        −g, with the structure, shapes and dtypes of ``grads``.

    >>> import torch
    >>> steepest_descent({"w": torch.tensor([1.0, -2.0])})
    {'w': tensor([-1.,  2.])}
    """
    return tree.neg(grads)
