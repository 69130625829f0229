"""The derivatives of what a program computes, along a line, each written once.

    ∂v     of a value v = f(x): Df[∂x], by the rule of f

What a rule writes is made of calls that have rules in turn, so ∂∂v needs no other: the product rule, twice, gives
Leibniz's, and a function of one number the recurrence of its Taylor coefficients. Equal terms meet in one node.
"""

from operator import getitem

from torch import fx

from alpha_func.capture.builder.active import is_constant
from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.operands import is_inexact
from alpha_func.capture.builder.values import Value
from alpha_func.capture.derivatives.derivative import first
from alpha_func.capture.derivatives.rule import Call
from alpha_func.torch_private import pytree


class Along:
    """∂ of any value of a program, None where it is zero.

    Args:
        b: what writes the program.
        known: ∂ of the values that it begins at; what else has no operand is constant.
    """

    def __init__(self, b: Builder, known: dict[fx.Node, Value]):
        self._b, self._known = b, known

    def __call__(self, value: Value) -> Value:
        """∂ of a value of the program, or of each of several."""
        if isinstance(value, (list, tuple)):
            return [self(part) for part in value]
        if not isinstance(value, fx.Node):
            return None
        if value not in self._known:
            self._known[value] = self._derivative(value)
        return self._known[value]

    def _derivative(self, node: fx.Node) -> Value:
        if node.op != "call_function" or is_constant(node.target) or not is_inexact(node):
            return None
        if node.target is getitem:
            parts = self(node.args[0])
            return None if parts is None else parts[node.args[1]]
        t = pytree.tree_map(lambda a: self(a) if isinstance(a, fx.Node) else None, node.args)
        if all(leaf is None for leaf in pytree.tree_leaves(t)):
            return None
        found = first(self._b, Call(node.target, node.args, node.kwargs, node), t)
        if isinstance(found, (list, tuple)):
            return [part if is_inexact(val) else None for part, val in zip(found, node.meta["val"], strict=True)]
        return found
