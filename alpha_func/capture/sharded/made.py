"""The programs that answer for a loss of sharded parameters, each gathering as it goes.

    value    (*inputs) -> L(θ)
    sweep    (*inputs, *directions) -> value, slope, curvature      the Taylor program, of shards
    line     (*inputs, *directions) -> h(0), h'(0), h''(0) of h(α) = L(θ + αd)         PyTorch's own forward derivatives

The line differentiates with respect to the number α, so that gathers are constants to it. It is independent of the
sweep, has no backward pass either, so that no more than a layer is whole, and is about three times as dear.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, fx

from alpha_func.calls import Function
from alpha_func.capture.rewrites import CHANNELS_LAST, FUSED, rewrite
from alpha_func.capture.rewrites.in_double import program_in_double
from alpha_func.capture.running.backends import below_autograd
from alpha_func.capture.running.binding import bind
from alpha_func.capture.running.reusing import reuse
from alpha_func.capture.running.schemes import Schemes
from alpha_func.capture.sharded.gathers import Gathered
from alpha_func.capture.tracing.roundings import seeded
from alpha_func.losses.in_double import doubled
from alpha_func.shards import Layout

aten = torch.ops.aten


class Gathering(NamedTuple):
    """How sharded parameters are gathered.

    Attributes:
        ahead: how many layers before its first use a gather begins, to overlap with their computation; so many more are
            whole at a time.
        dtype: what is sent, such as torch.bfloat16, which rounds θ and d, and halves the bytes of float32; None: the
            shards as they are.
    """

    ahead: int = 0
    dtype: torch.dtype | None = None


AT_USE = Gathering()
Numbers = Sequence[Tensor]
Run = Callable[..., Numbers]


class Made:
    """The programs made of one program of a loss, for shards of some layouts.

    Args:
        schemes: of the program of whole tensors.
        layouts: of its inputs.
        gathering: how.

    Attributes:
        is_the_loss: whether its value has been compared with the loss's own.
        proven: how many calls it has been proven at.
        given_up: whether the line answers instead of the sweep.
    """

    def __init__(self, schemes: Schemes, layouts: Sequence[Layout | None], gathering: Gathering):
        self._schemes, self._layouts, self._gathering = schemes, list(layouts), gathering
        self.is_the_loss, self.proven, self.given_up = False, 0, False
        self.count, self.seed = schemes.params, schemes.seed

    @cached_property
    def _sweep(self) -> Gathered:
        program = reuse(rewrite(_copied(self._schemes.quadratic.program), CHANNELS_LAST, FUSED))
        return self._gathered(program, [*self._layouts, *self._layouts[: self.count]], self.count)

    @cached_property
    def _value(self) -> Gathered:
        return self._gathered(_copied(self._schemes.in_primitives), self._layouts)

    @cached_property
    def _line(self) -> Gathered:
        program = _along(_copied(self._schemes.in_primitives), self.count)
        return self._gathered(program, [*self._layouts, *self._layouts[: self.count], None])

    @cached_property
    def order(self) -> str:
        """What is gathered by each, and when; the same on ranks that may gather together."""
        return " | ".join(each.order for each in (self._sweep, self._value, self._line))

    @property
    def rounding(self) -> float:
        """Of what is sent, where that is said."""
        dtype = self._gathering.dtype
        return 0.0 if dtype is None else torch.finfo(dtype).eps

    def value(self, *inputs: Tensor) -> Tensor:
        """L(θ)."""
        with seeded(self.seed), torch.no_grad():
            found: Tensor = self._value_runs(*inputs)
        return found

    def sweep(self, *inputs: Tensor) -> Numbers:
        """By the sweep."""
        with seeded(self.seed):
            return self._sweep_runs(*inputs)

    def sweep_in_double(self, *inputs: Tensor) -> Numbers:
        """By the sweep, in float64."""
        run = below_autograd(program_in_double(self._sweep_bound))
        with seeded(self.seed):
            return run(*map(doubled, inputs))

    def line(self, *inputs: Tensor) -> Numbers:
        """By the line."""
        return self._along_line(bind(self._line.program).forward, inputs)

    def line_in_double(self, *inputs: Tensor) -> Numbers:
        """By the line, in float64."""
        return self._along_line(program_in_double(self._line.program).forward, list(map(doubled, inputs)))

    def value_in_double(self) -> Callable[..., Tensor]:
        """What gives L(θ) in float64."""
        run = program_in_double(self._value.program).forward

        def value(*inputs: Tensor) -> Tensor:
            with seeded(self.seed), torch.no_grad():
                found: Tensor = run(*inputs)
            return found

        return value

    def written(self) -> fx.GraphModule:
        """The sweep, to be run with other roundings."""
        return self._sweep.program

    def value_written(self) -> fx.GraphModule:
        """The value, likewise."""
        return self._value.program

    def _along_line(self, run: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Numbers:
        like = inputs[0]
        zero, one = (torch.full((), x, dtype=like.dtype, device=self.device or like.device) for x in (0.0, 1.0))

        def h(alpha: Tensor) -> Tensor:
            with seeded(self.seed):
                return run(*inputs, alpha)

        def value_and_slope(alpha: Tensor) -> object:
            return torch.func.jvp(h, (alpha,), (one,))

        with torch.no_grad():
            (value, slope), (_, curvature) = torch.func.jvp(value_and_slope, (zero,), (one,))  # type: ignore[misc]
        return [value, slope, curvature]

    @property
    def device(self) -> torch.device | None:
        """Where it is computed."""
        return next((place.device for place in self._layouts if place is not None), None)

    @cached_property
    def _sweep_bound(self) -> fx.GraphModule:
        return bind(self._sweep.program)

    @cached_property
    def _sweep_runs(self) -> Run:
        return below_autograd(self._sweep_bound)

    @cached_property
    def _value_runs(self) -> Function:
        return bind(self._value.program).forward

    def _gathered(self, program: fx.GraphModule, layouts: Sequence[Layout | None], directions: int = 0) -> Gathered:
        how = self._gathering
        return Gathered(program, layouts, directions=directions, ahead=how.ahead, dtype=how.dtype)


def _along(program: fx.GraphModule, count: int) -> fx.GraphModule:
    """(*inputs) -> value as (*inputs, *directions, α) -> value at θ + αd, added up anew for every use."""
    graph = program.graph
    inputs = graph.find_nodes(op="placeholder")
    with graph.inserting_after(inputs[-1]):
        alpha = graph.placeholder("alpha")
    alpha.meta["val"] = inputs[0].meta["val"].new_empty(())
    for i, node in reversed(list(enumerate(inputs[:count]))):
        users = list(node.users)
        with graph.inserting_after(inputs[-1]):
            d = graph.placeholder(f"direction_{i}")
        d.meta["val"] = node.meta["val"]
        for user in users:
            with graph.inserting_before(user):
                step = graph.call_function(aten.mul.Tensor, (d, alpha))
                there = graph.call_function(aten.add.Tensor, (node, step))
            step.meta["val"] = there.meta["val"] = torch.empty_like(node.meta["val"])
            user.replace_input_with(node, there)
    program.recompile()
    return program


def _copied(program: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    return fx.GraphModule(program, graph)
