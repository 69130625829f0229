"""What a scheme is compared with: value, slope, curvature and gradient by routes that are not its own.

    of the loss        PyTorch's derivatives of the loss as it was given; twice where the operators that it runs are
                       known to be right by double backward, else once
    of the primitives  jvp of jvp, which keeps no activations, or double backward, of its program in primitives
    differences        of the program's values alone: the third voter, where a scheme and PyTorch part

None goes through the rules, laws and passes that a scheme is made by.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, func, fx

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.rewrites.in_double import program_in_double
from alpha_func.capture.running.binding import bind
from alpha_func.capture.running.points import NoEvidence, Point, recordable, values_of
from alpha_func.capture.tracing.outside import values
from alpha_func.capture.tracing.roundings import seeded
from alpha_func.errors import CaptureError
from alpha_func.losses.in_double import doubled, loss_in_double
from alpha_func.losses.likelihood import NATURAL, NOT_NORMALISED
from alpha_func.losses.looking import hides
from alpha_func.transforms.engine import Uncaptured
from alpha_func.transforms.guard import known_wrong, twice_exact, unverified
from alpha_func.transforms.tower import derivatives_along
from alpha_func.transforms.validation import scalar_loss
from alpha_func.tree import Tree
from alpha_func.verified.differences import Differences, differences
from alpha_func.verified.formulas import nodes_of

Numbers = dict[str, Tensor]  # value, slope, curvature, and the gradient of each parameter by its name

OF_PROGRAM = "slope of the program itself"
GRADIENT = "gradient of {}"
FROM_DESCENT = "distance of the direction from −g"
_ROOM = 2**29  # bytes: what a forward sweep, which keeps nothing, is proven with at most
_REACHES = (0.05, 0.004, 0.0004)

aten = torch.ops.aten


class Witness:
    """The independent routes over one call.

    Args:
        loss: the loss as it was given.
        primitives: its program in primitives, (*inputs) -> value.
        seed: of the program's draws.
        call: its parameters, args and kwargs, possibly under transforms.
        inputs: of the program, likewise.

    Raises:
        NoEvidence: there are no values to compute with.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        primitives: fx.GraphModule,
        seed: int | None,
        call: tuple[Tree, Args, Kwargs],
        inputs: list[Tensor],
    ):
        params, args, kwargs = call
        self.inputs = values_of(inputs)
        self.is_narrow = any(doubled(tensor) is not tensor for tensor in self.inputs)
        self._given, self._graph, self.seed = loss, primitives, seed
        # CUDA's own dropout has another mask than that of a program.
        self._draws_otherwise = seed is not None and any(tensor.is_cuda for tensor in self.inputs)
        self._structure = tree.structure(params)
        self.names = [f"params{path}" for path, _ in tree.named_leaves(params)]
        self._args, self._kwargs = tree.map(
            lambda v: recordable(values(v)) if isinstance(v, Tensor) else v, (args, kwargs)
        )
        self.is_known_wrong = False  # until the loss's own gradient is found to be made by a formula that is wrong

    @cached_property
    def _primitives(self) -> Callable[..., Tensor]:
        return bind(self._graph).forward

    @property
    def count(self) -> int:
        """How many parameters."""
        return len(self.names)

    @cached_property
    def in_double(self) -> "Witness":
        """The same in double precision, the program's own derivatives beside those of the loss."""
        params = tree.unflatten(list(map(doubled, self.inputs[: self.count])), self._structure)
        args, kwargs = tree.map(doubled, (self._args, self._kwargs))
        inputs = list(map(doubled, self.inputs))
        graph = program_in_double(self._graph)
        return Witness(loss_in_double(self._given), graph, self.seed, (params, args, kwargs), inputs)

    def of_loss(self, at: Point) -> Numbers:
        """All of it by double backward of the loss, where that is known to be right."""
        return self._backward(self._value, at, known=True)

    def of_loss_frugally(self, at: Point) -> Numbers:
        """The same, where double backward keeps little."""
        if not self.keeps_little:
            raise NoEvidence("memory", lasting=False)
        return self.of_loss(at)

    @cached_property
    def keeps_little(self) -> bool:
        """Whether a backward pass has room for the values of the program."""
        kept = (node.meta.get("val") for node in self._graph.graph.nodes)
        return sum(leaf.nbytes for leaf in tree.leaves(list(kept)) if isinstance(leaf, Tensor)) <= _ROOM

    def forward(self, at: Point) -> Numbers:
        """Value, slope and curvature of the primitives by forward derivatives."""
        leaves, rest, d = tuple(at.inputs[: self.count]), at.inputs[self.count :], tuple(at.direction or ())

        def value_and_slope(*leaves: Tensor) -> object:
            return func.jvp(lambda *x: self._program(list(x), rest), leaves, d)

        (value, slope), (_, curvature) = func.jvp(value_and_slope, leaves, d)  # type: ignore[misc]
        return {"value": value, "slope": slope, "curvature": curvature}

    def require_natural(self) -> None:
        """Refuse outputs whose likelihood in natural parameters is another than the criterion says.

        Raises:
            CaptureError: they are not the probabilities that it takes.
        """
        if NATURAL not in self._kwargs:
            return
        params = tree.unflatten(self.inputs[: self.count], self._structure)
        with torch.no_grad():
            value, natural = (float(self._given(params, *self._args, **options)) for options in ({}, {NATURAL: True}))
        if abs(value - natural) > torch.finfo(self.inputs[0].dtype).eps ** 0.5 * (1 + abs(value)):
            raise CaptureError(NOT_NORMALISED.format(f"the loss is {value:.6g}, and {natural:.6g} of their likelihood"))

    def gauss_newton(self, at: Point) -> Numbers:
        """Value, slope and Gauss-Newton curvature of the loss, by its module and its criterion."""
        leaves, d = (tree.unflatten(list(x), self._structure) for x in (at.inputs[: self.count], at.direction or ()))
        return Uncaptured(self._given, None).gauss_newton(leaves, d, NATURAL in self._kwargs, self._args, {})._asdict()

    def forward_to(self, at: Point, order: int) -> tuple[Tensor, ...]:
        """The derivatives of the primitives along the line up to an order, by forward mode as often over."""
        leaves, rest, d = tuple(at.inputs[: self.count]), at.inputs[self.count :], tuple(at.direction or ())

        def level(*leaves: Tensor) -> tuple[Tensor, ...]:
            return (self._program(list(leaves), rest),)

        for _ in range(order):
            level = _with_derivative(level, d)
        return level(*leaves)

    def reverse_to(self, at: Point, order: int) -> tuple[Tensor, ...]:
        """The same by reverse mode."""
        rest = at.inputs[self.count :]
        return derivatives_along(
            lambda x: self._program(x, rest), at.inputs[: self.count], list(at.direction or ()), order
        )

    def reverse(self, at: Point) -> Numbers:
        """All of it, of the primitives, by backward derivatives."""
        return self._backward(self._program, at)

    def slope(self, at: Point) -> Numbers:
        """Value and slope of the loss, by its gradient where that keeps little: forward mode parts from it at ties."""
        if self.keeps_little:
            found = self.gradient(at)
            return {"value": found["value"], "slope": found["slope"]}
        leaves, rest, d = tuple(at.inputs[: self.count]), at.inputs[self.count :], tuple(at.direction or ())
        value, slope = func.jvp(lambda *x: self._value(list(x), rest), leaves, d)  # type: ignore[misc]
        return {"value": value, "slope": slope}

    def gradient(self, at: Point) -> Numbers:
        """Value, gradient and slope of the loss by backward derivatives."""
        with torch.enable_grad(), _no_checkpoints():
            leaves = self._leaves(at)
            value = self._value(leaves, at.inputs[self.count :])
            names = nodes_of(value)
            if unverified(names) and hides(lambda x: self._value(x, at.inputs[self.count :]), leaves):
                raise NoEvidence("an autograd.Function reads a tensor that is not one of its arguments", lasting=True)
            self.is_known_wrong = known_wrong(names)
            grads = _gradient(value, leaves)
        slope = tree.vdot(at.direction, grads) if at.direction else -tree.vdot(grads, grads)
        return {"value": value.detach(), "slope": slope, **self._of_gradient(grads, at)}

    def line(self, at: Point, direction: Sequence[Tensor]) -> Differences:
        """By differences of the program's value, in double precision; what ``detach`` holds stays what it is here."""
        held: list[Tensor] = []
        leaves, d = at.inputs[: self.count], list(direction)
        length = float(tree.norm(d)) or 1.0

        def h(alpha: float) -> float:
            run = _Held(self._graph, held).run if self.detaches else self._primitives
            with seeded(self.seed):
                return float(run(*(θ + alpha * step for θ, step in zip(leaves, d, strict=True)), *at.inputs[len(d) :]))

        h(0.0)  # what is held is held from here
        return differences(h, 1 / length, _REACHES)

    @cached_property
    def detaches(self) -> bool:
        """Whether derivatives stop somewhere in the program."""
        return bool(self._graph.graph.find_nodes(op="call_function", target=aten.detach.default))

    def _backward(self, function: Callable[..., Tensor], at: Point, *, known: bool = False) -> Numbers:
        with torch.enable_grad(), _no_checkpoints():
            leaves = self._leaves(at)
            value = function(leaves, at.inputs[self.count :])
            if known and (self._draws_otherwise or not twice_exact(nodes_of(value))):
                raise NoEvidence("double backward of the loss is not known to be right", lasting=True)
            grads = _gradient(value, leaves, create_graph=True)
            fixed = [g.detach() for g in grads]
            d, sign = (at.direction, 1) if at.direction else (fixed, -1)  # −g in no memory of its own
            slope = tree.vdot(d, grads)
            hd = _gradient(slope, leaves)
        found = {"value": value.detach(), "slope": sign * slope.detach(), "curvature": tree.vdot(d, hd)}
        return found | self._of_gradient(fixed, at)

    def _leaves(self, at: Point) -> list[Tensor]:
        return [leaf.detach().requires_grad_() for leaf in at.inputs[: self.count]]

    def _of_gradient(self, grads: Sequence[Tensor], at: Point) -> Numbers:
        found = {GRADIENT.format(name): g for name, g in zip(self.names, grads, strict=True)}
        return found if at.direction else found | {FROM_DESCENT: torch.zeros(())}

    @cached_property
    def _loss(self) -> Callable[..., Tensor]:
        return scalar_loss(self._given, self._args, self._kwargs)

    def _value(self, leaves: list[Tensor], rest: list[Tensor]) -> Tensor:
        if self._draws_otherwise:
            return self._program(leaves, rest)
        return self._loss(tree.unflatten(leaves, self._structure))

    def _program(self, leaves: list[Tensor], rest: list[Tensor]) -> Tensor:
        with seeded(self.seed):
            return self._primitives(*leaves, *rest)


class _Held(fx.Interpreter):
    """A program in which the results of ``detach`` are those of the first run, as derivatives take them."""

    def __init__(self, program: fx.GraphModule, held: list[Tensor]):
        super().__init__(program)
        self._held, self._first = held, not held
        self._next = iter(list(held))

    def run_node(self, n: fx.Node) -> Any:
        """The result of one operator."""
        if n.target is not aten.detach.default:
            return super().run_node(n)
        if self._first:
            self._held.append(super().run_node(n))
            return self._held[-1]
        return next(self._next)


def _with_derivative(
    level: Callable[..., tuple[Tensor, ...]], d: tuple[Tensor, ...]
) -> Callable[..., tuple[Tensor, ...]]:
    """A tower of derivatives along d, one more at its end."""

    def tower(*leaves: Tensor) -> tuple[Tensor, ...]:
        found, along = func.jvp(level, leaves, d)  # type: ignore[misc]
        return (*found, along[-1])

    return tower


def _no_checkpoints() -> AbstractContextManager[None]:
    """A checkpoint computes again with the module's own parameters, wherever the derivative is taken at."""
    return torch.autograd.graph.disable_saved_tensors_hooks("a checkpoint is not evidence")


def _gradient(value: Tensor, leaves: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(value, leaves, create_graph=create_graph, materialize_grads=True))
