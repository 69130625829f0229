"""The engine of a captured loss: the schemes of its program, each proven at its first use, or an independent route.

    lookup of the signature's program -> scheme, proven here before? -> run
                                         else its proof, and where it fails: double backward, with one warning

Under a transform of torch.func, or where autograd records, the same schemes run operator by operator, so that they can
be differentiated and batched in turn; what is proven is then one example, without the transform. A scheme that raises
at a later call is given up like one that fails its proof: no internal error of a sweep reaches the caller.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.running import cases
from alpha_func.capture.running.as_line import AsLine
from alpha_func.capture.running.evidence import Witness
from alpha_func.capture.running.first_use import FirstUse
from alpha_func.capture.running.points import NoEvidence
from alpha_func.capture.running.proof import Candidate, Case
from alpha_func.capture.running.schemes import Scheme, Schemes
from alpha_func.errors import CaptureError, StrategyError
from alpha_func.losses.draws import ALONE
from alpha_func.losses.likelihood import NATURAL
from alpha_func.losses.parting import SHIFT
from alpha_func.quadratic import Quadratic
from alpha_func.span import symmetric
from alpha_func.taylor import Taylor
from alpha_func.torch_private import peek_interpreter_stack
from alpha_func.transforms.directions import DirectionFunction, steepest_descent
from alpha_func.transforms.engine import Engine, SpanNumbers, Uncaptured
from alpha_func.transforms.strategies import Products, Step
from alpha_func.tree import Tree

S = TypeVar("S")
T = TypeVar("T")
Lookup = Callable[[Tree, Args, Kwargs], tuple[Schemes, list[Tensor]]]
_NEW: Any = object()
_requires_grad = attrgetter("requires_grad")
_COMPARED = 2  # products: at the values of a call, and away from those of the next


class Captured(Engine):
    """The engine of a captured loss.

    Args:
        loss: as it was given.
        lookup: the schemes of a call's signature, and the inputs of its program.
        backend: what runs them.
        first_use: the proof, and what follows where it fails.
        by_strategy: the engine that differentiates the program by a strategy of torch.func.
    """

    def __init__(
        self, loss: Callable[..., Tensor], lookup: Lookup, backend: str, first_use: FirstUse, by_strategy: Engine
    ):
        self._loss, self._lookup, self._backend, self._first_use = loss, lookup, backend, first_use
        self._by_strategy, self._uncaptured = by_strategy, Uncaptured(loss, None)

    def quadratic(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Quadratic:
        """By one forward sweep of the program."""
        schemes, inputs = self._lookup(params, args, kwargs)
        d = tree.leaves(direction)
        return self._answer(
            schemes,
            schemes.quadratic,
            [*inputs, *d],
            lambda: cases.quadratic(self._witness(schemes, (params, args, kwargs), inputs), d),
            lambda found: Quadratic(*found),
            lambda engine: engine.quadratic(params, direction, args, kwargs),
        )

    def product(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Tree:
        """By the strategy; Hd = ½∇_d(dᵀHd) of the forward sweep, where double backward is found to be wrong."""
        schemes, inputs = self._lookup(params, args, kwargs)
        if schemes.products < _COMPARED and not schemes.unswept:
            self._compare_product(schemes, (params, args, kwargs), inputs, tree.leaves(direction))
        if not schemes.misled:
            return self._by_strategy.product(params, direction, args, kwargs)
        return torch.func.grad(lambda d: self.quadratic(params, d, args, kwargs).curvature / 2)(direction)

    def _compare_product(
        self, schemes: Schemes, call: tuple[Tree, Args, Kwargs], inputs: list[Tensor], d: list[Tensor]
    ) -> None:
        """Double backward beside the forward sweep: no scheme forms Hd, which would be proven itself."""
        with suppress(NoEvidence):
            case = cases.product(self._witness(schemes, call, inputs), d)
            with suppress(RuntimeError):  # a sweep that does not run says nothing
                case.doubt(schemes.quadratic.candidate("eager"), away=schemes.products > 0)
            schemes.misled |= case.misled
            schemes.products += 1

    def step(self, params: Tree, direction: DirectionFunction, args: Args, kwargs: Kwargs) -> Step:
        """By the second-order adjoint: one program along −g, two with any other direction made in between."""
        schemes, inputs = self._lookup(params, args, kwargs)
        count = schemes.params

        def witness() -> Witness:
            return self._witness(schemes, (params, args, kwargs), inputs)

        def otherwise(engine: Engine) -> Step:
            return engine.step(params, direction, args, kwargs)

        if direction is steepest_descent:
            return self._answer(
                schemes,
                schemes.descent,
                inputs,
                lambda: cases.descent(witness(), self._proven(schemes.quadratic, inputs)),
                lambda found: Step(
                    tree.like(params, found[3 : 3 + count]),
                    tree.like(params, found[3 + count :]),
                    Quadratic(*found[:3]),
                ),
                otherwise,
            )
        found = self._answer(schemes, schemes.gradient, inputs, lambda: cases.gradient(witness()), list[Any], otherwise)
        if isinstance(found, Step):
            return found
        value, grads, saved = found[0], tree.like(params, found[1 : 1 + count]), found[1 + count :]
        d = direction(grads)
        along = tree.leaves(d)
        line = self._answer(
            schemes,
            schemes.line,
            [*saved, *along],
            lambda: cases.line(witness(), along, self._proven(schemes.quadratic, inputs)),
            lambda found: Quadratic(value, *found),
            lambda engine: engine.quadratic(params, d, args, kwargs),
        )
        return Step(grads, d, line)

    def taylor(self, params: Tree, direction: Tree, order: int, args: Args, kwargs: Kwargs) -> Taylor:
        """By one forward sweep of the program."""
        schemes, inputs = self._lookup(params, args, kwargs)
        d = tree.leaves(direction)
        return self._answer(
            schemes,
            schemes.taylor(order),
            [*inputs, *d],
            lambda: cases.taylor(self._witness(schemes, (params, args, kwargs), inputs), d, order),
            lambda found: Taylor(found[0], found[1], found[2], tuple(found[3:])),
            lambda engine: engine.taylor(params, direction, order, args, kwargs),
        )

    def products(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> Products:
        """By the strategy, as ``product``."""
        schemes, inputs = self._lookup(params, args, kwargs)
        if schemes.products < _COMPARED and not schemes.unswept:
            self._compare_product(schemes, (params, args, kwargs), inputs, tree.leaves(directions[0]))
        if not schemes.misled:
            return self._by_strategy.products(params, directions, args, kwargs)
        found = self.step(params, lambda grads: directions[0], args, kwargs)
        return Products(found.quadratic.value, found.grads, [self.product(params, d, args, kwargs) for d in directions])

    def span(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> SpanNumbers:
        """By the adjoint of the program, which the directions share."""
        schemes, inputs = self._lookup(params, args, kwargs)
        k = len(directions)
        scheme = schemes.span(k)
        d = [leaf for direction in directions for leaf in tree.leaves(direction)]

        def case() -> Case:
            line = AsLine(schemes.params, k).weigh(d)
            return cases.quadratic(self._witness(schemes, (params, args, kwargs), inputs), line)

        def read(found: Sequence[Any]) -> SpanNumbers:
            return found[0], torch.stack(list(found[1 : 1 + k])), symmetric(found[1 + k :], k)

        return self._answer(
            schemes,
            scheme,
            [*inputs, *d],
            case,
            read,
            lambda engine: engine.span(params, directions, args, kwargs),
        )

    def gauss_newton(self, params: Tree, direction: Tree, natural: bool, args: Args, kwargs: Kwargs) -> Quadratic:
        """By one forward sweep of the program whose outputs are marked, without second coefficients before these."""
        first = tree.leaves(params)[0]
        marked = {**kwargs, SHIFT: torch.zeros((), dtype=first.dtype, device=first.device)}
        if natural:
            marked[NATURAL] = True
        schemes, inputs = self._lookup(params, args, marked)
        d = tree.leaves(direction)
        return self._answer(
            schemes,
            schemes.gauss_newton,
            [*inputs, *d],
            lambda: cases.gauss_newton(self._witness(schemes, (params, args, marked), inputs), d),
            lambda found: Quadratic(*found),
            lambda engine: engine.gauss_newton(params, direction, natural, args, kwargs),
        )

    def _answer(
        self,
        schemes: Schemes,
        scheme: Scheme,
        operands: list[Tensor],
        case: Callable[[], Case],
        read: Callable[[Sequence[Tensor]], T],
        otherwise: Callable[[Engine], S],
    ) -> T | S:
        """A scheme's answer, proven at its first use; where it was given up, that of an independent engine."""
        backend = self._backend_for(operands)
        run = scheme.proven.get(backend, _NEW)
        if run is _NEW:
            with ALONE:
                run = self._first_use(schemes, scheme, backend, case)
        if run is None:
            return self._independent(schemes, otherwise)
        try:
            return read(run(*operands))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            found = self._independent(schemes, otherwise)  # which raises the loss's own error, where it is one
            with ALONE:
                self._first_use.give_up(schemes, scheme, backend, case, error)
            return found

    def _independent(self, schemes: Schemes, ask: Callable[[Engine], S]) -> S:
        """By double backward over the program, or over the loss where the program is another function."""
        if schemes.misled:
            raise CaptureError(
                "neither PyTorch's second derivatives of this loss nor the library's agree with finite differences of "
                "its values: write the loss in other operators, compare with check_quadratic, and please report it"
            )
        if schemes.is_the_loss:
            return ask(self._by_strategy)
        try:
            return ask(self._uncaptured)
        except StrategyError as error:
            raise CaptureError(
                "the derivatives of the captured program differ from those of the loss, and the loss is refused: "
                f"{error}"
            ) from error

    def _witness(self, schemes: Schemes, call: tuple[Tree, Args, Kwargs], inputs: list[Tensor]) -> Witness:
        return Witness(self._loss, schemes.in_primitives, schemes.seed, call, inputs)

    def _proven(self, scheme: Scheme, inputs: list[Tensor]) -> Candidate | None:
        backend = self._backend_for(inputs)
        return scheme.candidate(backend) if scheme.proven.get(backend) else None

    def _backend_for(self, inputs: list[Tensor]) -> str:
        return self._backend if _plain(inputs) else "transformable"


def _plain(inputs: list[Tensor]) -> bool:
    """Whether nobody differentiates or batches this call."""
    if peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    return not (torch.is_grad_enabled() and any(map(_requires_grad, inputs)))
