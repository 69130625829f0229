"""The engine of a captured loss whose parameters are sharded: the quadratic of this rank's batch, gathered as it goes.

    each rank alone     guards, program, what is here of its inputs; where that raises, it raises on all
    all together        agree on what is gathered, prove it at a first use, run it

A loss of whole parameters has the engine of any other captured loss.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alpha_func import shards, torch_private, tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.program import Program
from alpha_func.capture.running.points import Point
from alpha_func.capture.sharded import proof
from alpha_func.capture.sharded.agreement import Agreement, Found
from alpha_func.capture.sharded.lookup import Lookup
from alpha_func.capture.sharded.made import Gathering, Made
from alpha_func.capture.tracing.refusal import without_remedy
from alpha_func.errors import CaptureError, CaptureWarning, StrategyError, warn
from alpha_func.losses.in_double import is_narrow
from alpha_func.losses.module_loss import ModuleLoss, module_loss_of
from alpha_func.losses.sharding import own_parameters, own_precisions, own_value
from alpha_func.quadratic import Quadratic
from alpha_func.shards import layout, local, together
from alpha_func.taylor import Taylor
from alpha_func.torch_private import plain_beneath
from alpha_func.transforms.directions import DirectionFunction
from alpha_func.transforms.engine import Engine, SpanNumbers
from alpha_func.transforms.strategies import Products, Step
from alpha_func.tree import Tree

_PROVEN = 2  # calls: at the values of the first, and away from those of the second
_NOT_FORMED = (
    "{what} of sharded parameters (DTensors) is not implemented: compute the gradient by backward() of the module, as "
    "a training loop does, and then quadratic_along(capture(loss))(params, direction, *batch)"
)
_TRANSFORMED = (
    "params are sharded (DTensors), and cannot be gathered inside vmap or grad: call quadratic_along outside of "
    "torch.func, once for each direction"
)
_GIVEN_UP = (
    "the sweep of a captured loss of sharded parameters disagrees with PyTorch's forward derivatives and is not used: "
    "{}; PyTorch's are used instead, which are correct and about three times slower. Please report it"
)


class Ready(NamedTuple):
    """What a rank has found by itself for a call: the programs, and what is here of inputs and direction."""

    made: Made
    inputs: list[Tensor]
    direction: list[Tensor]


class Sharded(Engine):
    """The engine of a captured loss of sharded parameters.

    Args:
        loss: as it was given.
        backend, strict, unverified: as for ``capture``.
        gathering: how parameters are gathered.
    """

    def __init__(
        self, loss: Callable[..., Tensor], *, backend: str, strict: bool, unverified: bool, gathering: Gathering
    ):
        self._loss, self._backend, self._strict, self._gathering = loss, backend, strict, gathering
        self._lookup = Lookup(loss, unverified)
        self._warned: set[str] = set()

    def quadratic(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Quadratic:
        """Of this rank's batch, by one forward sweep."""
        agree = self._agreement(params)

        def alone() -> tuple[Found, Ready]:
            ready = self._ready(params, direction, args, kwargs)
            made, operands = ready.made, [*ready.inputs, *ready.direction]
            asked = [not made.is_the_loss, made.proven == 0, made.proven < _PROVEN, made.given_up]
            return Found(made.order, [*asked, any(map(is_narrow, operands))]), ready

        with torch.inference_mode(False):
            (unknown, first, second, given_up, narrow), ready = agree("the quadratic of sharded parameters", alone)
            made, operands = ready.made, [*ready.inputs, *ready.direction]
            if unknown:
                self._require_value(agree, ready, args, kwargs)
            if (first or second) and not given_up:
                point = Point(ready.inputs, ready.direction)
                why = proof.doubt(made, agree, point, away=not first, narrow=bool(narrow))
                made.proven += 1
                if why is not None:
                    self._give_up(made, why)
                given_up = why is not None
            made.given_up |= bool(given_up)
            return Quadratic(*together(lambda: (made.line if given_up else made.sweep)(*operands)))

    def value(self, params: Tree, args: Args, kwargs: Kwargs) -> Tensor:
        """The loss of this rank's batch."""
        agree = self._agreement(params)

        def alone() -> tuple[Found, Ready]:
            ready = self._ready(params, None, args, kwargs)
            return Found(ready.made.order, [not ready.made.is_the_loss]), ready

        with torch.inference_mode(False):
            (unknown,), ready = agree("the value of sharded parameters", alone)
            if unknown:
                self._require_value(agree, ready, args, kwargs)
            return together(lambda: ready.made.value(*ready.inputs))

    def program(self, params: Tree, args: Args, kwargs: Kwargs) -> Program:
        """That of the whole shapes, before anything is gathered."""
        return self._lookup(params, args, kwargs)[0]

    def product(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Tree:
        """Refused."""
        raise StrategyError(_NOT_FORMED.format(what="Hd"))

    def step(self, params: Tree, direction: DirectionFunction, args: Args, kwargs: Kwargs) -> Step:
        """Refused."""
        raise StrategyError(_NOT_FORMED.format(what="the gradient"))

    def products(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> Products:
        """Refused."""
        raise StrategyError(_NOT_FORMED.format(what="Hd"))

    def taylor(self, params: Tree, direction: Tree, order: int, args: Args, kwargs: Kwargs) -> Taylor:
        """Refused."""
        raise StrategyError(_NOT_FORMED.format(what="a derivative beyond the second"))

    def _agreement(self, params: Tree) -> Agreement:
        if torch_private.peek_interpreter_stack() is not None:
            raise StrategyError(_TRANSFORMED)
        loss = module_loss_of(self._loss)
        held = [] if loss is None else [*loss.model.parameters(), *loss.model.buffers()]
        return Agreement.of([*tree.leaves(params), *held])

    def _ready(self, params: Tree, direction: Tree | None, args: Args, kwargs: Kwargs) -> Ready:
        """What one rank does alone: nothing in it communicates."""
        if self._backend != "eager":
            raise CaptureError(
                f"backend {self._backend!r} does not gather sharded parameters (DTensors): leave out backend="
            )
        try:
            program, inputs = self._lookup(params, args, kwargs)
        except CaptureError as error:
            raise CaptureError(without_remedy(str(error))) from error
        if program.schemes.unswept:
            raise CaptureError(
                f"the second forward derivative of {', '.join(program.schemes.unswept)} has not been verified, and any "
                "other way needs whole parameters: write it in simpler operators"
            )
        layouts = tuple(map(layout, inputs))
        if layouts not in program.of_shards:
            program.of_shards[layouts] = Made(program.schemes, layouts, self._gathering)
        d = [] if direction is None else list(map(local, tree.leaves(direction)))
        return Ready(program.of_shards[layouts], list(map(local, inputs)), d)

    def _require_value(self, agree: Agreement, ready: Ready, args: Args, kwargs: Kwargs) -> None:
        """At the module's own parameters, whatever those of the call are: after a step they are others."""
        loss = self._loss
        if isinstance(loss, ModuleLoss):
            own = own_parameters(loss)
            # In another precision than the module's, the module does not compute.
            if all(x.dtype == y.dtype for x, y in zip(own, ready.inputs, strict=False)):
                inputs = [*map(local, own), *ready.inputs[ready.made.count :]]
                proof.require_value(
                    ready.made, agree, inputs, lambda: own_value(loss, args, kwargs), own_precisions(loss.model)
                )
        ready.made.is_the_loss = True

    def _give_up(self, made: Made, why: str) -> None:
        message = _GIVEN_UP.format(why)
        if self._strict:
            raise CaptureError(message)
        if message not in self._warned:
            self._warned.add(message)
            warn(message, CaptureWarning)


class ByPlacement(Engine):
    """The engine of a captured loss: one for whole parameters, another for sharded ones.

    Args:
        loss: as it was given.
        whole, sharded: the two.
    """

    def __init__(self, loss: Callable[..., Tensor], whole: Engine, sharded: Sharded):
        self._loss, self._whole, self._sharded = loss, whole, sharded

    def quadratic(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Quadratic:
        """By the engine of the parameters' kind."""
        return self._of(params).quadratic(params, direction, args, kwargs)

    def product(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Tree:
        """By the engine of the parameters' kind."""
        return self._of(params).product(params, direction, args, kwargs)

    def step(self, params: Tree, direction: DirectionFunction, args: Args, kwargs: Kwargs) -> Step:
        """By the engine of the parameters' kind."""
        return self._of(params).step(params, direction, args, kwargs)

    def taylor(self, params: Tree, direction: Tree, order: int, args: Args, kwargs: Kwargs) -> Taylor:
        """By the engine of the parameters' kind."""
        return self._of(params).taylor(params, direction, order, args, kwargs)

    def products(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> Products:
        """By the engine of the parameters' kind."""
        return self._of(params).products(params, directions, args, kwargs)

    def span(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> SpanNumbers:
        """By the engine of the parameters' kind."""
        return self._of(params).span(params, directions, args, kwargs)

    def gauss_newton(self, params: Tree, direction: Tree, natural: bool, args: Args, kwargs: Kwargs) -> Quadratic:
        """By the engine of the parameters' kind."""
        return self._of(params).gauss_newton(params, direction, natural, args, kwargs)

    def _of(self, params: Tree) -> Engine:
        return self._sharded if has_shards(params, self._loss) else self._whole


def has_shards(params: Tree, loss: Callable[..., Tensor]) -> bool:
    """Whether a leaf is a DTensor, be it beneath a transform of torch.func, or the module of the loss has others."""
    of_module = module_loss_of(loss)
    if of_module is not None and of_module.spread:
        return True
    if torch_private.peek_interpreter_stack() is None:
        return not tree.is_flat(params) and shards.any_sharded(tree.leaves(params))
    return shards.any_sharded(map(plain_beneath, tree.leaves(params)))
