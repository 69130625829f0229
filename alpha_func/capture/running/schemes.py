"""The programs that answer for a loss: its Taylor program, and its gradient with the line along it.

    quadratic    (*inputs, *directions) -> value, slope, curvature                      one forward sweep (``taylor``)
    descent      (*inputs) -> value, slope, curvature, *grads, *directions              along d = −g (``adjoint``)
    gradient     (*inputs) -> value, *grads, *saved                                     (``adjoint``)
    line         (*saved, *directions) -> slope, curvature                              the rest of it

Each is written at its first use, and kept with the program of the loss that it is made of.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from alpha_func.capture.builder.active import unverified
from alpha_func.capture.derivatives.derivative import FORMULAS
from alpha_func.capture.running.backends import BACKENDS, Runnable
from alpha_func.capture.sweeps.adjoint import TwoPrograms, adjoint_programs, steepest_descent_program
from alpha_func.capture.sweeps.taylor import taylor_program
from alpha_func.losses.draws import seeded_rng


class Scheme:
    """A program, written at its first run and then made ready for each backend that is to run it."""

    def __init__(self, write: Callable[[], fx.GraphModule], seed: int | None):
        self._write, self._seed = write, seed
        self._ready: dict[str, Runnable] = {}

    @cached_property
    def program(self) -> fx.GraphModule:
        """The program as it is written."""
        return self._write()

    def run(self, backend: str, inputs: Sequence[Tensor]) -> Sequence[Any]:
        """Its outputs, drawn random numbers seeded."""
        run = self._ready.get(backend)
        if run is None:
            run = self._ready[backend] = BACKENDS[backend](self.program)
        if self._seed is None:
            return run(*inputs)
        with seeded_rng(self._seed):
            return run(*inputs)


class Schemes:
    """The schemes of a program.

    Args:
        graph: the program of primitive operators, (*inputs) -> value.
        params: how many of its inputs, the first ones, are leaves of the parameters.
        seed: of its random draws, if it makes any.
    """

    def __init__(self, graph: fx.GraphModule, params: int, seed: int | None):
        self.graph, self.params, self.seed = graph, params, seed
        self.quadratic = Scheme(lambda: taylor_program(graph, params), seed)
        self.descent = Scheme(lambda: steepest_descent_program(graph, params), seed)
        self.gradient = Scheme(lambda: self._parts.gradient, seed)
        self.line = Scheme(lambda: self._parts.line, seed)

    @cached_property
    def verified(self) -> bool:
        """Whether the second forward derivative of every operator has been; else only double backward serves."""
        return FORMULAS.issuperset(unverified(self.graph.graph, self.params, "forward_over_forward"))

    @cached_property
    def _parts(self) -> TwoPrograms:
        return adjoint_programs(self.graph, self.params)
