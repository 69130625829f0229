"""The programs that answer for a loss: its Taylor program, and its gradient with the line along it.

    quadratic    (*inputs, *directions) -> value, slope, curvature                      one forward sweep (``taylor``)
    descent      (*inputs) -> value, slope, curvature, *grads, *directions              along d = −g (``adjoint``)
    gradient     (*inputs) -> value, *grads, *saved                                     (``adjoint``)
    line         (*saved, *directions) -> slope, curvature                              the rest of it
    taylor       (*inputs, *directions) -> h, h′, ..., h⁽ᵏ⁾                             one forward sweep, for every k
    span         (*inputs, *directions) -> value, *slopes, *curvatures                  of k directions (``span``)
    gauss_newton (*inputs, *directions) -> value, slope, curvature                      dᵀGd (``gauss_newton``)

Each is written at its first use, and kept with the program of the loss that it is made of.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor, fx

from alpha_func.capture.builder.active import unverified_operators
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.capture.rewrites import IN_PRIMITIVES, rewrite
from alpha_func.capture.rewrites.in_double import program_in_double, rewritten_in_double
from alpha_func.capture.running.as_line import AsLine
from alpha_func.capture.running.backends import BACKENDS, Runnable, below_autograd, finish
from alpha_func.capture.running.binding import bind
from alpha_func.capture.running.proof import Candidate
from alpha_func.capture.sweeps.adjoint import TwoPrograms, adjoint_program, adjoint_programs, steepest_descent_program
from alpha_func.capture.sweeps.gauss_newton import gauss_newton_program
from alpha_func.capture.sweeps.span import span_program
from alpha_func.capture.sweeps.taylor import higher_program, taylor_program
from alpha_func.capture.tracing.collector import at_rest
from alpha_func.capture.tracing.outside import outside
from alpha_func.losses.draws import ALONE, seeded_rng

T = TypeVar("T")
Writer = Callable[[], fx.GraphModule]
Rewriting = Callable[[fx.GraphModule], fx.GraphModule]


class _MadeOnce(cached_property[T]):
    """A cached property that one thread at a time makes, outside all transforms: a program's fake tensors are in none,
    and not for two.
    """

    def __get__(self, instance: Any, owner: type | None = None) -> T:  # type: ignore[override]
        with ALONE, outside(), at_rest():
            return super().__get__(instance, owner)


class Scheme:
    """A program, written at its first use and made ready for each backend that is to run it.

    Args:
        name: for messages.
        of: those that it belongs to.
        form: writes it, with the scheme before it, of the program of the loss.
        part: writes it alone, where it is one of several that are written together.
        before: the scheme of which it is the rest.
        proven_as: what of it is compared, where that is not its outputs themselves.

    Attributes:
        proven: what runs it, by backend, once it has been found right there; None where it was given up.
        is_proven_otherwise: whether that is not its outputs.
        begun: the backends of which the first call was found right.
    """

    def __init__(
        self,
        name: str,
        of: "Schemes",
        form: Rewriting,
        part: Writer | None = None,
        before: "Scheme | None" = None,
        proven_as: Callable[[Candidate], Candidate] | None = None,
    ):
        self.proven_as, self.is_proven_otherwise = proven_as or (lambda candidate: candidate), proven_as is not None
        self.name, self._of, self._form, self._part, self._before = name, of, form, part, before
        self.proven: dict[str, Runnable | None] = {}
        self.begun: set[str] = set()
        self._ready: dict[str, Runnable] = {}

    def with_before(self) -> fx.GraphModule:
        """The program written anew, with the scheme before it."""
        return self._form(self._of.graph)

    def anew(self) -> fx.GraphModule:
        """The same in double precision."""
        return self._form(self._of.in_double)

    @_MadeOnce
    def program(self) -> fx.GraphModule:
        """The program as it is written."""
        return self._part() if self._part is not None else self.with_before()

    def ready(self, backend: str) -> Runnable:
        """What runs it."""
        if backend not in self._ready:
            with ALONE, outside():
                made = below_autograd(self._finished) if backend == "eager" else BACKENDS[backend](self.program)
            self._ready[backend] = made if self._before is not None else self._seeded(made)  # draws are all in that
        return self._ready[backend]

    def candidate(self, backend: str) -> Candidate:
        """What is to be proven: with the scheme before it where it is the rest of one."""
        before = self._before
        if before is None:
            found = Candidate(self.ready(backend), lambda: self.program, lambda: self._in_double, self.anew)
            return self.proven_as(found)
        return Candidate(
            self._after(before.ready(backend), self.ready(backend)),
            self.with_before,
            lambda: self._after(before._in_double, self._in_double),
            self.anew,
        )

    def _seeded(self, run: Runnable) -> Runnable:
        """The same with its random draws seeded."""
        seed = self._of.seed
        if seed is None:
            return run

        def run_seeded(*inputs: object) -> Sequence[Tensor]:
            with seeded_rng(seed):
                return run(*inputs)

        return run_seeded

    @_MadeOnce
    def _finished(self) -> fx.GraphModule:
        return finish(self.program)

    @_MadeOnce
    def _in_double(self) -> Runnable:
        return program_in_double(self._finished)

    def _after(self, first: Runnable, rest: Runnable) -> Runnable:
        assert self._before is not None
        count = len(self._before.program.graph.find_nodes(op="placeholder"))
        skipped = 1 + self._of.params  # value and gradient

        def run(*operands: object) -> Sequence[Tensor]:
            return rest(*first(*operands[:count])[skipped:], *operands[count:])

        return run


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
        self.misled = False  # until PyTorch's derivatives of the program are found to be wrong
        self.products = 0  # how many have been compared
        self._by_name: dict[str, Scheme] = {}
        self.quadratic = Scheme("Taylor program", self, lambda g: taylor_program(g, params))
        self.descent = Scheme("adjoint along −g", self, lambda g: steepest_descent_program(g, params))
        self.gradient = Scheme(
            "gradient", self, lambda g: adjoint_programs(g, params).gradient, lambda: self._parts.gradient
        )
        self.line = Scheme(
            "adjoint", self, lambda g: adjoint_program(g, params), lambda: self._parts.line, self.gradient
        )

    def taylor(self, order: int) -> Scheme:
        """The derivatives along a line up to an order."""
        name = f"Taylor program of order {order}"
        return self._kept(name, lambda g: higher_program(rewrite(g, IN_PRIMITIVES), self.params, order))

    def span(self, count: int) -> Scheme:
        """The quadratic in the span of so many directions."""
        name = f"adjoint along {count} directions"
        as_line = AsLine(self.params, count)
        return self._kept(name, lambda g: span_program(rewrite(g, IN_PRIMITIVES), self.params, count), as_line)

    @property
    def gauss_newton(self) -> Scheme:
        """The quadratic with the Gauss-Newton curvature, of a program whose last input marks the outputs."""
        return self._kept("Gauss-Newton program", lambda g: gauss_newton_program(g, self.params))

    def _kept(self, name: str, form: Rewriting, proven_as: Callable[[Candidate], Candidate] | None = None) -> Scheme:
        with ALONE:
            if name not in self._by_name:
                self._by_name[name] = Scheme(name, self, form, proven_as=proven_as)
            return self._by_name[name]

    @_MadeOnce
    def unswept(self) -> list[str]:
        """The operators whose second forward derivative has not been verified: only double backward serves."""
        found = unverified_operators(self.graph.graph, self.params, "forward_over_forward")
        replaced = {str(operator) for operator, rule in RULES.items() if rule.replaces}
        return [name for name in found if name not in replaced]

    @_MadeOnce
    def in_double(self) -> fx.GraphModule:
        """The program in double precision."""
        return rewritten_in_double(self.graph)

    @_MadeOnce
    def in_primitives(self) -> fx.GraphModule:
        """The program with nothing whole in it, for PyTorch to differentiate."""
        return rewrite(self.graph, IN_PRIMITIVES)

    @_MadeOnce
    def primitives(self) -> Callable[..., Tensor]:
        """What runs that."""
        return bind(self.in_primitives).forward

    @_MadeOnce
    def _parts(self) -> TwoPrograms:
        return adjoint_programs(self.graph, self.params)
