"""The loss as plain autograd has it, to hold a strategy against at the first call of a signature.

Under a transform of torch.func a loss may be another one than it is when it is called: an inner ``autograd.grad`` does
not reach a batch outside of the transform, ``requires_grad`` of a tensor is another, a number drawn from elsewhere has
moved. Its value and its derivative are then not those of the loss, and no error says so.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.errors import ImpureLossError
from alpha_func.quadratic import Quadratic
from alpha_func.torch_private import peek_interpreter_stack
from alpha_func.tree import Tree

# What rounding leaves between two runs of one computation by the same kernels, with room: the faults are of order one.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-2}
_COARSE = 0.1


class Plainly:
    """The value of a loss and its gradient g, by autograd alone.

    Attributes:
        value: L(θ).
        grads: g, leaf by leaf; None where PyTorch could not differentiate.
    """

    def __init__(self, value: Tensor, params: list[Tensor], retain_graph: bool):
        self.value = value.detach()
        self._tolerance = _TOLERANCES.get(value.dtype, _COARSE)
        self._size = float(tree.norm(params).detach())
        self.grads: list[Tensor] | None = None
        with suppress(RuntimeError):  # not differentiable so: the strategy says what it cannot
            self.grads = list(torch.autograd.grad(value, params, retain_graph=retain_graph, materialize_grads=True))

    @classmethod
    def of(cls, value: Any, params: Tree, retain_graph: bool = False) -> "Plainly | None":
        """For a differentiable real scalar outside of every transform; None for anything else."""
        differentiable = isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad
        if not differentiable or not value.is_floating_point() or peek_interpreter_stack() is not None:
            return None
        return cls(value, tree.leaves(params), retain_graph)

    def require_repeated(self, first: Tensor) -> None:
        """Refuse a loss that had another value at the same arguments before: it uses up or counts something."""
        reach = self._size * float(tree.norm(self.grads).detach()) if self.grads is not None else 0.0
        if self._parts(first, self.value, reach):
            raise ImpureLossError(_CHANGES.format(float(first.detach()), float(self.value)))

    def require(self, quadratic: Quadratic, direction: Tree) -> None:
        """Refuse a value or a slope that is not the plain one, beyond what a rounding of θ would make of it."""
        d = tree.leaves(direction)
        length = float(tree.norm(d).detach())
        away = self._size / length if length else 0.0  # ‖θ‖ as a multiple of d
        bend = abs(float(quadratic.curvature.detach())) * away
        if self.grads is None:
            self._compare("value", quadratic.value, self.value, bend * away)
            return
        slope = tree.vdot(d, self.grads)
        reach = length * float(tree.norm(self.grads).detach())
        self._compare("value", quadratic.value, self.value, (reach + bend) * away)
        self._compare("slope", quadratic.slope, slope, reach + bend)

    def _compare(self, what: str, got: Tensor, expected: Tensor, scale: float) -> None:
        if self._parts(got, expected, scale):
            raise ImpureLossError(_ANOTHER.format(what=what, got=float(got.detach()), expected=float(expected)))

    def _parts(self, got: Tensor, expected: Tensor, scale: float) -> bool:
        a, b = float(got.detach()), float(expected.detach())
        return a != b and not abs(a - b) <= self._tolerance * max(abs(b), scale) and (a == a or b == b)


_CHANGES = (
    "the value of the loss is {:.9g} at one call, and {:.9g} at the next, at the same arguments: it uses up an "
    "iterator, counts its calls, or draws random numbers. Pass a list, the count or the random numbers as an argument, "
    "or draw in a module that functional_loss(module, ..., seed=...) seeds"
)
_ANOTHER = (
    "the {what} of the loss is {got:.9g} under torch.func, and {expected:.9g} when it is called directly: it computes "
    "something else while it is differentiated. Use capture(loss), or take a derivative inside it by torch.func.grad "
    "instead of torch.autograd.grad with respect to a batch (torch.func does not see its requires_grad). Nothing may "
    "depend on requires_grad, or on anything that changes from call to call"
)
