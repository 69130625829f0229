"""The programs that answer for a loss: its Taylor program, and its gradient with the line along it.

    quadratic    (*inputs, *directions) -> value, slope, curvature                      one forward sweep (``taylor``)
    descent      (*inputs) -> value, slope, curvature, *grads, *directions              along d = −g (``adjoint``)
    gradient     (*inputs) -> value, *grads, *saved                                     (``adjoint``)
    line         (*saved, *directions) -> slope, curvature                              the rest of it

Each is written at its first use, and kept with the program of the loss that it is made of.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor, fx

from alpha_func.capture.builder.active import unverified
from alpha_func.capture.derivatives.derivative import FORMULAS
from alpha_func.capture.rewrites.normalisation import in_primitives
from alpha_func.capture.running.backends import BACKENDS, Runnable
from alpha_func.capture.running.binding import bind
from alpha_func.capture.sweeps.adjoint import TwoPrograms, adjoint_program, adjoint_programs, steepest_descent_program
from alpha_func.capture.sweeps.taylor import taylor_program
from alpha_func.losses.draws import ALONE, seeded_rng

T = TypeVar("T")
Writer = Callable[[], fx.GraphModule]


class _MadeOnce(cached_property[T]):
    """A cached property that one thread at a time makes: the fake tensors of a program are not for two."""

    def __get__(self, instance: Any, owner: type | None = None) -> T:  # type: ignore[override]
        with ALONE:
            return super().__get__(instance, owner)


class Scheme:
    """A program, written at its first use and made ready for each backend that is to run it.

    Args:
        name: for messages.
        write: writes it.
        seed: of its random draws, if it makes any.
        whole: writes it anew, with the scheme before it where it is the rest of one.
        is_rest: whether it is.

    Attributes:
        proven: what runs it, by backend, once it has been found right there; None where it was given up.
        begun: the backends of which the first call was found right.
    """

    def __init__(self, name: str, write: Writer, seed: int | None, whole: Writer | None = None, is_rest: bool = False):
        self.name, self._write, self._seed = name, write, seed
        self.whole, self._is_rest = whole or write, is_rest
        self.proven: dict[str, Runnable | None] = {}
        self.begun: set[str] = set()
        self._ready: dict[str, Runnable] = {}

    @_MadeOnce
    def program(self) -> fx.GraphModule:
        """The program as it is written."""
        return self._write()

    def written(self) -> fx.GraphModule:
        """The program as it is written, with the scheme before it where it is the rest of one."""
        return self.whole() if self._is_rest else self.program

    def ready(self, backend: str) -> Runnable:
        """What runs it."""
        if backend not in self._ready:
            with ALONE:
                self._ready[backend] = self.seeded(BACKENDS[backend](self.program))
        return self._ready[backend]

    def seeded(self, run: Runnable) -> Runnable:
        """The same with its random draws seeded."""
        seed = self._seed
        if seed is None:
            return run

        def run_seeded(*inputs: Any) -> Sequence[Any]:
            with seeded_rng(seed):
                return run(*inputs)

        return run_seeded


class Schemes:
    """The schemes of a program.

    Args:
        graph: the program of primitive operators, (*inputs) -> value.
        params: how many of its inputs, the first ones, are leaves of the parameters.
        seed: of its random draws, if it makes any.
    """

    def __init__(self, graph: fx.GraphModule, params: int, seed: int | None):
        self.graph, self.params, self.seed = graph, params, seed
        self.is_the_loss = True  # until its derivatives part from those of the loss itself
        self.quadratic = Scheme("Taylor program", lambda: taylor_program(graph, params), seed)
        self.descent = Scheme("adjoint along −g", lambda: steepest_descent_program(graph, params), seed)
        self.gradient = Scheme(
            "gradient", lambda: self._parts.gradient, seed, lambda: adjoint_programs(graph, params).gradient
        )
        self.line = Scheme(
            "adjoint", lambda: self._parts.line, None, lambda: adjoint_program(graph, params), is_rest=True
        )

    @_MadeOnce
    def unswept(self) -> list[str]:
        """The operators whose second forward derivative has not been verified: only double backward serves."""
        found = unverified(self.graph.graph, self.params, "forward_over_forward")
        return [name for name in found if name not in FORMULAS]

    @_MadeOnce
    def primitives(self) -> Callable[..., Tensor]:
        """The program with nothing whole in it, for PyTorch to differentiate."""
        return bind(in_primitives(self.graph)).forward

    @_MadeOnce
    def _parts(self) -> TwoPrograms:
        return adjoint_programs(self.graph, self.params)
