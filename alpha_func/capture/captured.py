"""A captured loss, and what answers for it: its programs, by the guards of each or frozen."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.program import LossCall, Program
from alpha_func.capture.programs import Programs
from alpha_func.capture.running.engine import Captured
from alpha_func.capture.running.first_use import FirstUse
from alpha_func.capture.running.schemes import Schemes
from alpha_func.capture.sharded.engine import ByPlacement, Sharded, has_shards
from alpha_func.capture.sharded.made import AT_USE, Gathering
from alpha_func.capture.tracing.recording import MAX_RECORDINGS
from alpha_func.capture.tracing.refusal import refuse_autocast
from alpha_func.capture.trust import Trusted, require_right, require_trust
from alpha_func.errors import StrategyError, warn
from alpha_func.losses.kinds import refuse_kinds
from alpha_func.losses.layouts import Layouts
from alpha_func.losses.module_loss import LossOfLoss
from alpha_func.losses.signature import Key, signature
from alpha_func.transforms.engine import Engine, Uncaptured
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import require_callable
from alpha_func.tree import Tree

BACKENDS = ("eager", "inductor")


class CapturedLoss(LossOfLoss):
    """What ``capture`` returns: a loss, and the programs it has been captured as."""

    def __init__(
        self,
        loss: Callable[..., Tensor],
        *,
        backend: str,
        strict: bool,
        unverified: bool,
        gathering: Gathering,
        trust: frozenset[object] = frozenset(),
        checked: bool = False,
    ):
        self.loss, self.backend = loss, backend
        self._first_use = FirstUse(strict)
        self._unverified = unverified
        self._trust, self._checked = trust, checked
        self._programs = Programs(loss, unverified=unverified, trust=trust)
        self._gathering = gathering
        self._sharded = Sharded(loss, backend=backend, strict=strict, unverified=unverified, gathering=gathering)
        self.captured = 0  # how often a program was

    def __reduce__(self) -> Any:
        """Pickled and copied without its programs, which are captured anew."""
        options: Kwargs = {
            "backend": self.backend,
            "strict": self._first_use.strict,
            "unverified": self._unverified,
            "gathering": self._gathering,
            "trust": self._trust,
        }
        return partial(capture, **options), (self.loss,)

    def __call__(self, params: Tree, *args: object, **kwargs: object) -> Tensor:
        """The loss, by its program."""
        if torch.compiler.is_dynamo_compiling():  # a loss of a loss is captured whole
            return self.loss(params, *args, **kwargs)
        if has_shards(params, self.loss):
            return self._sharded.value(params, args, kwargs)
        program, inputs = self.lookup(params, args, kwargs)
        return program(*inputs)

    def engine(self, strategy: StrategyLike | None) -> Engine:
        """The schemes of its programs; with a strategy, that on them."""
        by_strategy = Uncaptured(self, strategy, _operators)
        if strategy is not None:
            return by_strategy
        whole = Captured(self.loss, self._schemes, self.backend, self._first_use, by_strategy)
        return ByPlacement(self.loss, whole, self._sharded)

    def program(self, params: Tree, *args: object, **kwargs: object) -> Program:
        """The program of this call, captured now if it has not been; print it to read it."""
        if has_shards(params, self.loss):
            return self._sharded.program(params, args, kwargs)
        return self.lookup(params, args, kwargs)[0]

    def over(self, loss: Callable[..., Tensor]) -> "CapturedLoss":
        """Another loss captured in the same way, but for what is refused: that is not asked again."""
        return CapturedLoss(
            loss,
            backend=self.backend,
            strict=False,
            unverified=True,
            gathering=self._gathering,
            trust=self._trust,
            checked=True,
        )

    def frozen(self) -> "FrozenLoss":
        """The same loss for a caller who knows that nothing changes but the arguments: looked up by these alone.

        Arguments of a shape, dtype, stride or value that has not been seen are looked up as ever; from then on, for
        such arguments, whatever else the loss reads is taken to be what it was: modes, attributes, closed-over numbers,
        and which tensor each buffer is (its values may change). A look-up takes microseconds, whatever the loss. A loss
        whose program is written for the values of a mask, or of lengths, is looked up as ever.
        """
        return FrozenLoss(self)

    def lookup(self, params: Tree, args: Args, kwargs: Kwargs) -> tuple[Program, list[Tensor]]:
        """The program for these arguments and its inputs: parameters, state now, tensor arguments."""
        return self._programs(params, args, kwargs, self._has_captured)

    def _schemes(self, params: Tree, args: Args, kwargs: Kwargs) -> tuple[Schemes, list[Tensor]]:
        program, inputs = self.lookup(params, args, kwargs)
        return program.schemes, inputs

    def _has_captured(self, call: LossCall) -> None:
        self.captured += 1
        if self.captured == 2 * MAX_RECORDINGS:
            warn(
                f"the loss has been captured {self.captured} times, and at most {MAX_RECORDINGS} programs are kept: "
                "something that it reads changes at every call, such as a shape or a number; pass a number as a tensor"
            )
        if self._trust and not self._checked:
            require_right(self.loss, self.over, *call)


class FrozenLoss(CapturedLoss):
    """What ``CapturedLoss.frozen`` returns."""

    def __init__(self, captured: CapturedLoss):
        self.loss, self.backend, self._guarded = captured.loss, captured.backend, captured
        self._first_use, self._sharded = captured._first_use, captured._sharded
        self._layouts = Layouts[tuple[Program, list[Tensor]]]()
        self._kept: dict[Key, tuple[Program, list[Tensor]]] = {}  # what has no layout: other arguments than tensors

    def __reduce__(self) -> Any:
        return FrozenLoss, (self._guarded,)

    def over(self, loss: Callable[..., Tensor]) -> CapturedLoss:
        """As of the loss that is frozen."""
        return self._guarded.over(loss)

    def lookup(self, params: Tree, args: Args, kwargs: Kwargs) -> tuple[Program, list[Tensor]]:
        """The program for such arguments and its inputs: parameters, state as it was found, tensor arguments."""
        refuse_autocast()
        flat = type(params) is dict
        if flat:
            names, given = [*params, len(args), *kwargs], [*params.values(), *args, *kwargs.values()]
            known = self._layouts.find(names, given)
            if known is not None:
                return known[0], [*params.values(), *known[1], *given[len(params) :]]
        try:
            key, leaves, tensors = signature(params, args, kwargs)
        except RuntimeError:
            refuse_kinds(args, kwargs)  # a nested tensor, which has no shape
            raise
        found = self._kept.get(key)
        if found is None:
            program, inputs = self._guarded.lookup(params, args, kwargs)
            if program.by_value:
                return program, inputs
            held = inputs[len(leaves) : len(inputs) - len(tensors)]
            if len(self._kept) >= MAX_RECORDINGS:
                self._kept.clear()
            found = self._kept[key] = program, held
        if flat:
            self._layouts.keep(names, given, lambda: found)
        return found[0], [*leaves, *found[1], *tensors]


def capture(
    loss: Callable[..., Tensor],
    *,
    backend: str = "eager",
    strict: bool = False,
    unverified: bool = False,
    gathering: Gathering = AT_USE,
    trust: Collection[Trusted] | Trusted = (),
) -> CapturedLoss:
    """The loss as a program of primitive operators, whose derivatives of every order are correct.

    At the first call TorchDynamo records the loss, without running or changing anything. The recording is lowered, and
    the value of the program is compared with that of the loss (one forward pass). Later calls evaluate Dynamo's guards
    on everything that Python read (arguments, closures, globals, attributes, containers, modes, hooks). They run the
    program whose guards hold, or record a new one. Up to 32 programs are kept.

    Tensors that the loss closes over, and buffers and frozen parameters, are inputs of the program, read anew
    at every call. The draws of a loss from ``functional_loss`` are seeded. Not guarded: ``os.environ``, the sign of a
    zero. ``.frozen()`` is the same loss without guards.

    Args:
        loss: pure function ``loss(params, *args, **kwargs)`` to a real 0-d tensor.
        backend: what runs the programs of the transforms: "eager", operator by operator, or "inductor", compiled.
        strict: raise an error where a transform's program fails its check, instead of warning and using double
            backward.
        unverified: allow operators whose second derivatives have not been verified.
        trust: functions (subclasses of ``torch.autograd.Function``) and operators (``torch.ops.library.name``) whose
            derivatives are right, as you know; ``check_quadratic`` checks it at the first call of every program.
        gathering: how sharded parameters are gathered (DTensors, docs/many_processes.md): how far ahead, in which
            dtype.

    Returns:
        A loss of the same arguments and, to rounding, values: call it, differentiate it, vmap it, give it to any
        transform. ``.program(params, *args)`` shows what it runs.

    Raises:
        CaptureError: at a call, the loss cannot be captured, or its program has another value than the loss beyond
            what rounding explains; under ``strict``, a transform's program cannot be proven. The message names the
            operator, line or values, and the remedy.
        TypeError, ValueError: an argument is not as above.

    >>> import torch
    >>> captured = capture(lambda x: torch.nn.functional.mse_loss(x, torch.zeros_like(x)))
    >>> captured(torch.tensor([1.0, 3.0]))
    tensor(5.)
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown: choose from {', '.join(BACKENDS)}")
    trusted = require_trust(trust)
    return CapturedLoss(loss, backend=backend, strict=strict, unverified=unverified, gathering=gathering, trust=trusted)


def _operators(loss: Callable[..., Tensor], params: Tree, args: Args, kwargs: Kwargs) -> set[str]:
    assert isinstance(loss, CapturedLoss)
    program = loss.program(params, *args, **kwargs)
    if program.schemes.misled:
        raise StrategyError(
            "PyTorch's second derivatives of this program disagree with finite differences of its values: "
            "leave out strategy=, and the captured loss uses derivative rules of its own"
        )
    return program.active
