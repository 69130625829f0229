"""A loss as TorchDynamo records it: a graph of torch calls, under guards on everything that Python read to get there.

    call -> guards, in C++ -> a graph whose guards hold: its inputs, as they are now
                           -> none: a new one is recorded, symbolically; nothing runs, nothing changes

The guards are asked directly, where a release of PyTorch lets us, and else by a call of the compiled frame.

Numbers, flags, containers, closures, globals, attributes, hooks, modes, shapes, strides and dtypes are guarded; tensors
that the loss closes over are inputs. What stands in for the compiled graph raises the inputs out of the compiled frame,
before Dynamo would replay any side effect of the loss; the caller lowers the graph once and runs that with them.
"""

import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import is_
from typing import Any

import torch
from torch import Tensor, fx

from alpha_func import torch_private
from alpha_func.calls import Args, Function, Kwargs
from alpha_func.capture.time_limit import require_time
from alpha_func.capture.tracing.before_recording import BEFORE_RECORDING
from alpha_func.capture.tracing.collector import at_rest
from alpha_func.capture.tracing.otherwise import changes
from alpha_func.capture.tracing.reads import same_in_a_batch
from alpha_func.capture.tracing.refusal import EAGER, not_recorded
from alpha_func.errors import CaptureError
from alpha_func.losses.draws import ALONE
from alpha_func.losses.kernels import layers_by_parts
from alpha_func.losses.module_loss import ModuleLoss
from alpha_func.losses.restoring import no_global_backward_hooks
from alpha_func.tree import Tree

MAX_RECORDINGS = 32  # of one loss


class Recording:
    """One graph of a loss, and what Dynamo read for it without a guard.

    Nothing in it leads to the code of the function that was recorded: that keeps Dynamo's cache, the cache keeps the
    globals of the graph, and these keep the recording, for good.

    Attributes:
        graph: torch calls, from ``sources`` to the loss.
        sources: where each input is read, as Python would write it.
        lowered: what the caller made of it, kept with it.
    """

    def __init__(self, graph: fx.GraphModule):
        self.graph = graph
        self.sources = [torch_private.source_of(node) for node in graph.graph.find_nodes(op="placeholder")]
        self.lowered: Any = None
        self._code = torch_private.traced_code()
        self._reads_fast_path = torch.backends.mha.get_fastpath_enabled.__code__ in self._code
        self._methods: list[tuple[type, str, types.CodeType]] = []
        self._hooks = _global_hooks()
        self._reads = [(read, _at(read.sources)) for read in torch_private.reads_of_this_graph()]
        self._globals = globals()
        self._guards: Callable[[dict[str, object]], bool] | None = None
        self._read: Callable[..., Sequence[object]] | None = None

    def ask_directly(self, function: types.FunctionType, names: dict[str, object], inputs: Sequence[object]) -> bool:
        """Whether guards and inputs, those of this call, can be had without a call of the function."""
        try:
            read = _at(self.sources)
            if all(map(is_, read(names, function.__globals__), inputs)):
                self._read, self._guards = read, torch_private.guards_of(function, names)
                self._globals = function.__globals__
        except Exception:  # a source that is not such an expression
            pass
        return self._guards is not None

    def inputs(self, names: dict[str, Any]) -> Sequence[Any] | None:
        """The inputs for a call; None where the guards do not hold for it."""
        assert self._guards is not None
        assert self._read is not None
        if self._reads_fast_path:
            with layers_by_parts:
                holds = self._guards(names)
        else:
            holds = self._guards(names)
        if holds and self.holds() and self.reads_the_same(names, self._globals):
            return self._read(names, self._globals)
        return None

    def reads_the_same(self, names: dict[str, object], globals_: dict[str, object]) -> bool:
        """Whether the values that the loss reads on its way, by which its graph was written, are what they were."""
        for read, at in self._reads:
            value = read(*at(names, globals_))
            if value.shape != read.value.shape or not torch.equal(value, read.value):
                return False
        return True

    def require_one_reading(self, names: dict[str, object]) -> None:
        """Refuse a call under vmap whose examples read different values: one program runs for all of them."""
        with suppress(RuntimeError):  # a read that cannot be batched
            found = [(read.of(*at(names, self._globals)), read.value) for read, at in self._reads]
            if all(same_in_a_batch(*pair) for pair in found):
                return
        raise CaptureError(
            "one program runs for all examples under vmap, and here they differ in a number that the loss reads, or in "
            "how many places of a mask are true: loop over the examples, or use torch.where"
        )

    @property
    def by_value(self) -> bool:
        """Whether there are any."""
        return bool(self._reads)

    def run(self, *inputs: Any) -> None:
        """What Dynamo calls with the inputs of the graph when its guards hold."""
        raise _Found(self, inputs)  # in no variable: exception, traceback and frame would be a circle

    def guarded(self, objects: list[object]) -> None:
        """Remember the methods that the classes of these objects have: to Dynamo, those of modules never change."""
        for kind in {type(value) for value in objects}:
            names = {name for base in kind.__mro__ for name in vars(base)}
            found = [(kind, name, _code_of(kind, name)) for name in names]
            self._methods += [(kind, name, code) for kind, name, code in found if code in self._code]
        self._code.clear()

    def holds(self) -> bool:
        """Whether what Dynamo does not guard is as it was."""
        for kind, name, code in self._methods:
            if getattr(getattr(kind, name, None), "__code__", None) is not code:
                return False
        return self._hooks == _global_hooks()


class _Found(BaseException):
    """A recording whose guards hold, and its inputs."""


class Recorder:
    """``recorder(params, args, kwargs)``: the recording of a loss that holds for a call, and its inputs.

    Args:
        loss: the loss; it is neither run nor changed.
        trust: the functions (``autograd.Function``) that are recorded as their forward.
    """

    def __init__(self, loss: Callable[..., Tensor], trust: frozenset[object] = frozenset()):
        self._loss, self._trust = loss, trust
        self._frame: Function | None = None
        self._function: types.FunctionType = _calls_the_loss  # type: ignore[assignment]
        self._others: list[object] = []  # frames whose recordings read other values
        self._asked: dict[Recording, Function] = {}  # whose guards are asked without a call, and what keeps the guards

    def __call__(self, params: Tree, args: Args, kwargs: Kwargs) -> tuple[Recording, Sequence[Tensor]]:
        """Look a call up, or record it; outside of transforms and modes.

        Args:
            params, args, kwargs: plain tensors in them, no two of them one object. Those of ``params`` require grad:
                else Dynamo takes an ``autograd.Function`` for its forward, and drops its backward without a word.

        Raises:
            CaptureError: Dynamo cannot record the loss.
        """
        names = self.names(params, args, kwargs)
        # Dynamo's caches are for one thread at a time, and no other has its parameters in a module then. The loss's own
        # no_grad is to be told from the caller's.
        with ALONE, layers_by_parts, no_global_backward_hooks(), torch.enable_grad():
            found = self.known(names)
            if found is not None:
                return found
            recording, inputs = self._by_call(params, args, kwargs)
            if recording not in self._asked and recording.ask_directly(self._function, names, inputs):
                latest = [*self._asked.items()][-MAX_RECORDINGS + 1 :]
                self._asked = {**dict(latest), recording: self._function}
        return recording, inputs

    def names(self, params: Tree, args: Args, kwargs: Kwargs) -> dict[str, Any]:
        """A call as ``known`` takes it."""
        return dict(zip(_NAMES, (self._loss, params, args, kwargs), strict=True))

    def known(self, names: dict[str, object], *, valued: bool = True) -> tuple[Recording, Sequence[Tensor]] | None:
        """The same for a call by names, of what has been recorded and can be asked without it.

        Args:
            names: of the call.
            valued: whether its tensors have values, which some recordings read.
        """
        if not torch.is_grad_enabled():
            with torch.enable_grad():
                return self.known(names, valued=valued)
        with ALONE:
            for recording in self._asked:
                if recording.by_value and not valued:
                    continue
                inputs = recording.inputs(names)
                if inputs is not None:
                    return recording, inputs
        return None

    def _by_call(self, *call: Any) -> tuple[Recording, Sequence[Tensor]]:
        while True:
            known = self._frame
            frame = known or self._new_frame()
            try:
                with at_rest(), torch_private.recordable():
                    frame(self._loss, *call)
            except _Found as found:
                recording, inputs = found.args
                if recording.holds():
                    if recording.reads_the_same(self.names(*call), self._function.__globals__):
                        return recording, inputs
                    if known is None:
                        raise CaptureError(f"the loss reads a number that changes between two reads; {EAGER}") from None
                    self._others = [*self._others[-MAX_RECORDINGS + 1 :], frame]  # it may be right again
            except torch_private.RecordingLimit:  # Dynamo drops none of its graphs
                pass
            except Exception as error:  # Dynamo's, of whatever kind: the loss itself does not run
                require_time()
                raise CaptureError(not_recorded(error)) from error
            else:
                raise CaptureError(f"{_SWITCHED_OFF}, or {EAGER}")
            self._frame = None

    def _new_frame(self) -> Function:
        for function, composition in BEFORE_RECORDING.items():
            torch_private.substitute(function, composition)
        recorded: list[Recording] = []

        def backend(graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., None]:
            recorded.append(Recording(graph))
            return recorded[0].run

        def guarded(objects: list[object]) -> None:
            recorded.pop().guarded(objects)

        # Dynamo keeps and counts its graphs by code object: each loss has one of its own.
        code = _calls_the_loss.__code__.replace(co_name="loss")
        names = {**globals(), "the_loss": torch_private.allowed_in_graph(the_loss)}
        self._function = types.FunctionType(code, names, "loss")
        never_changes = self._loss.CONSTANT if type(self._loss) is ModuleLoss else ()
        constants = tuple(f"L['loss'].{name}" for name in never_changes)
        self._frame = torch_private.recorded_by(
            backend, guarded, self._function, changes(self._trust), MAX_RECORDINGS, constants
        )
        return self._frame


def the_loss(value: Tensor) -> Tensor:
    """A node of Dynamo's graph at the value, side effects of the loss being outputs as well; nobody is to
    differentiate the output, without which Dynamo would not let the loss differentiate within."""
    return value.detach()


def _calls_the_loss(loss: Callable[..., Tensor], params: Tree, args: Args, kwargs: Kwargs) -> Tensor:
    return the_loss(loss(params, *args, **kwargs))


_NAMES = _calls_the_loss.__code__.co_varnames[: _calls_the_loss.__code__.co_argcount]


def _at(sources: list[str]) -> Callable[[dict[str, object], dict[str, object]], Sequence[object]]:
    """What stands at these sources, by the names that they begin with."""
    found: Callable[[dict[str, Any], dict[str, Any]], Sequence[Any]] = eval(
        f"lambda L, G: ({''.join(f'{source}, ' for source in sources)})"
    )
    return found


def _global_hooks() -> tuple[object, ...]:
    if not any(torch_private.GLOBAL_HOOKS):
        return ()
    return tuple([hook for hooks in torch_private.GLOBAL_HOOKS for hook in hooks.values()])


def _code_of(kind: type, name: str) -> types.CodeType | None:
    return getattr(getattr(kind, name, None), "__code__", None)


_SWITCHED_OFF = (
    "TorchDynamo, which records and guards a captured loss, is switched off here (torch.compiler.set_stance, "
    "torch.compiler.disable or TORCHDYNAMO_DISABLE): switch it on"
)
