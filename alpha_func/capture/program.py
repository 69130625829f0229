"""A loss as a program of primitive operators.

PyTorch's derivatives of composite operators are not all right when they are differentiated again; those of primitive
ones are. A captured loss is the loss, traced and lowered to primitives before anything is differentiated.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, fx

from alpha_func import torch_private, tree
from alpha_func.capture.builder.active import active_nodes, operator_name
from alpha_func.capture.builder.active import unverified as unverified_in
from alpha_func.capture.running.engine import Captured
from alpha_func.capture.running.first_use import FirstUse
from alpha_func.capture.running.schemes import Schemes
from alpha_func.capture.tracing.agreement import aside, require_agreement
from alpha_func.capture.tracing.outside import is_outside, outside, plain
from alpha_func.capture.tracing.recording import MAX_RECORDINGS, Recorder, Recording
from alpha_func.capture.tracing.refusal import EAGER
from alpha_func.capture.tracing.tracing import trace
from alpha_func.errors import CaptureError, StrategyError, warn
from alpha_func.losses.draws import ALONE, seeded_rng
from alpha_func.losses.module_loss import LossOfLoss, ModuleLoss
from alpha_func.losses.signature import Key, is_flat, signature
from alpha_func.transforms.engine import Engine, Uncaptured
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import require_callable, scalar_loss
from alpha_func.tree import Tree

BACKENDS = ("eager", "inductor")
_NAMES = re.compile(r"[^\W\d]\w*")


class Program:
    """A loss at one signature: a graph of primitive operators, from flat inputs to a 0-d tensor.

    Call it with its inputs as tensors: the leaves of the parameters, the state, the tensors among the arguments.

    Attributes:
        graph: the fx.GraphModule, normalisations whole; what a call runs has them in primitives.
        params: how many of the inputs, the first ones, are leaves of the parameters.
        counts: how often each operator occurs, the most frequent first.
        seed: of the random draws of the program; None where it draws nothing.
        schemes: the programs made of this one, which the transforms run.
    """

    def __init__(self, graph: fx.GraphModule, params: int, seed: int | None):
        self.graph, self.params, self.seed = graph, params, seed
        self.counts = dict(Counter(_short(n.target) for n in graph.graph.nodes if _is_operator(n)).most_common())
        self.schemes = Schemes(graph, params, seed)

    @cached_property
    def active(self) -> set[str]:
        """The operators between the parameters and the loss."""
        return {operator_name(node) for node in active_nodes(self.graph.graph, self.params)}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The loss."""
        if self.seed is None:
            return self.schemes.primitives(*inputs)
        with seeded_rng(self.seed):
            return self.schemes.primitives(*inputs)

    def __repr__(self) -> str:
        code = "\n".join(line.partition(";  ")[0] for line in self.graph.code.strip().splitlines())
        code = code.replace("torch.ops.aten.", "").replace("def forward(self, ", "def loss(").replace(".default(", "(")
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"{code}\n# {sum(self.counts.values())} operators: {counts}"


class CapturedLoss(LossOfLoss):
    """What ``capture`` returns: a loss, and the programs it has been captured as."""

    def __init__(self, loss: Callable[..., Tensor], *, backend: str, strict: bool, unverified: bool):
        self.loss, self.backend = loss, backend
        self._first_use = FirstUse(strict)
        self._unverified = unverified
        self._recorder = Recorder(loss)
        self.captured = 0  # how often a program was

    def __reduce__(self) -> Any:
        """Pickled and copied without its programs, which are captured anew."""
        options: dict[str, Any] = {
            "backend": self.backend,
            "strict": self._first_use.strict,
            "unverified": self._unverified,
        }
        return partial(capture, **options), (self.loss,)

    def __call__(self, params: Tree, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, by its program."""
        if torch.compiler.is_dynamo_compiling():  # a loss of a loss is captured whole
            return self.loss(params, *args, **kwargs)
        program, inputs = self.lookup(params, args, kwargs)
        return program(*inputs)

    def engine(self, strategy: StrategyLike | None) -> Engine:
        """The schemes of its programs; with a strategy, that on them."""
        by_strategy = Uncaptured(self, strategy, _operators)
        if strategy is not None:
            return by_strategy
        return Captured(self.loss, self._schemes, self.backend, self._first_use, by_strategy)

    def program(self, params: Tree, *args: Any, **kwargs: Any) -> Program:
        """The program of this call, captured now if it has not been; print it to read it."""
        return self.lookup(params, args, kwargs)[0]

    def frozen(self) -> "FrozenLoss":
        """The same loss for a caller who knows that nothing changes but the arguments: looked up by these alone.

        Arguments of a shape, dtype, stride or value that has not been seen are looked up as ever; from then on, for
        such arguments, whatever else the loss reads is taken to be what it was: modes, attributes, closed-over numbers,
        and which tensor each buffer is (its values may change). A look-up takes microseconds, whatever the loss.
        """
        return FrozenLoss(self)

    def lookup(self, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, list[Tensor]]:
        """The program for these arguments and its inputs: parameters, state as it is now, tensor arguments."""
        if torch_private.any_autocast_enabled():
            raise CaptureError(
                "a captured loss is called under autocast, whose casts would be written into the program: "
                "leave autocast for the call, and give parameters and batch the dtype to compute in"
            )
        # The guards are given aliases: no two tensors are one object then, and none is a module's.
        if is_flat(params, args, kwargs) and is_outside():
            p = {name: value.detach().requires_grad_() for name, value in params.items()}
            a = tuple([x.detach().requires_grad_() if x.requires_grad else x.detach() for x in args])
            k = {name: x.detach().requires_grad_(x.requires_grad) for name, x in kwargs.items()} if kwargs else kwargs
            program, state = self._program(p, a, k)
            return program, [*params.values(), *state, *args, *kwargs.values()]
        leaves, structure = tree.flatten((params, args, kwargs))
        count = len(tree.leaves(params))
        with outside():
            aliases = [
                plain(leaf).requires_grad_(i < count or leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
                for i, leaf in enumerate(leaves)
            ]
            program, state = self._program(*tree.unflatten(aliases, structure))
        return program, [*leaves[:count], *state, *[leaf for leaf in leaves[count:] if isinstance(leaf, Tensor)]]

    def _schemes(self, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Schemes, list[Tensor]]:
        program, inputs = self.lookup(params, args, kwargs)
        return program.schemes, inputs

    def _program(self, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, list[Tensor]]:
        """The program of a call, and the tensors that it reads besides its arguments."""
        try:
            recording, inputs = self._recorder(params, args, kwargs)
            if recording.lowered is None:
                with ALONE:
                    recording.lowered = recording.lowered or self._lowered(recording, inputs, params, args, kwargs)
        except CaptureError:
            self._raise_its_own_error(params, args, kwargs)
            raise
        program, state = recording.lowered
        return program, [inputs[i] for i in state]

    def _lowered(
        self,
        recording: Recording,
        inputs: Sequence[Tensor],
        params: Tree,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Program, list[int]]:
        """A program of a new recording, and which inputs of the recording are the program's state."""
        tensors = [leaf for leaf in tree.leaves((params, args, kwargs)) if isinstance(leaf, Tensor)]
        count, place = len(tree.leaves(params)), {id(tensor): i for i, tensor in enumerate(tensors)}
        state = [i for i, value in enumerate(inputs) if id(value) not in place]
        for i in state:
            if not isinstance(inputs[i], Tensor):
                kind = type(inputs[i]).__name__
                raise CaptureError(f"the loss reads {recording.sources[i]}, a {kind}, which a program cannot; {EAGER}")
        held = [inputs[i] for i in state]
        like = [*tensors[:count], *held, *tensors[count:]]
        place = {id(tensor): i for i, tensor in enumerate(like)}
        try:
            traced = trace(recording.graph, like, [place[id(value)] for value in inputs])
        except CaptureError:
            raise
        except Exception as error:
            self._raise_its_own_error(params, args, kwargs)
            raise CaptureError(f"the loss cannot be traced: {type(error).__name__}: {error}; {EAGER}") from error
        graph = traced.graph
        (output,) = graph.output_node().all_input_nodes
        value = output.meta["val"]
        if value.ndim or not value.is_floating_point():
            self._raise_its_own_error(params, args, kwargs)
        _name_inputs(graph, params, [recording.sources[i] for i in state])
        if not self._unverified:
            _require_verified(graph, count)
        traced.recompile()
        program = Program(traced, count, self._seed(graph))
        require_agreement(self.loss, program.graph, program.seed, like, params, args, kwargs)
        self._count()
        return program, state

    def _raise_its_own_error(self, *call: Any) -> None:
        """Raise the error that the loss itself raises, or that its value is no loss, where there is one."""
        params, args, kwargs = tree.map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, call)
        with aside():
            scalar_loss(self.loss, args, kwargs)(params)

    def _seed(self, graph: fx.Graph) -> int | None:
        draws = [node for node in graph.nodes if _is_operator(node) and _draws(node.target)]
        if not draws:
            return None
        if isinstance(self.loss, ModuleLoss):
            return self.loss.seed
        raise CaptureError(
            f"{draws[0].target} draws from the global RNG: the loss is no function of its arguments; draw in a module "
            "and let functional_loss(module, criterion, seed=...) seed it, or pass the draw as an argument"
        )

    def _count(self) -> None:
        self.captured += 1
        if self.captured == 2 * MAX_RECORDINGS:
            warn(
                f"captured {self.captured} programs of one loss, of which at most {MAX_RECORDINGS} are kept: something "
                "that it reads changes at every call (a shape, a number; pass it as a tensor argument)"
            )


class FrozenLoss(CapturedLoss):
    """What ``CapturedLoss.frozen`` returns."""

    def __init__(self, captured: CapturedLoss):
        self.loss, self.backend, self._guarded = captured.loss, captured.backend, captured
        self._first_use = captured._first_use
        self._kept: dict[Key, tuple[Program, list[Tensor]]] = {}

    def __reduce__(self) -> Any:
        return FrozenLoss, (self._guarded,)

    def lookup(self, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, list[Tensor]]:
        """The program for such arguments and its inputs: parameters, state as it was found, tensor arguments."""
        key, leaves, tensors = signature(params, args, kwargs)
        found = self._kept.get(key)
        if found is None:
            program, inputs = self._guarded.lookup(params, args, kwargs)
            held = inputs[len(leaves) : len(inputs) - len(tensors)]
            if len(self._kept) >= MAX_RECORDINGS:
                self._kept.clear()
            found = self._kept[key] = program, held
        return found[0], [*leaves, *found[1], *tensors]


def capture(
    loss: Callable[..., Tensor], *, backend: str = "eager", strict: bool = False, unverified: bool = False
) -> CapturedLoss:
    """The loss as a program of primitive operators, whose derivatives of every order are right.

    At a first call TorchDynamo records the loss, which runs nothing and changes nothing; the recording is lowered, and
    the program's value is compared with the loss's own (one forward pass). Later calls evaluate Dynamo's guards on all
    that Python read on the way (arguments, closures, globals, attributes, containers, modes, hooks) and run the program
    that they hold for, or record anew. Up to 32 programs are kept.

    Tensors that the loss closes over, and buffers and frozen parameters, are inputs of the program, read anew
    at every call. The draws of a loss from ``functional_loss`` are seeded. Not guarded: ``os.environ``, the sign of a
    zero. ``.frozen()`` is the same loss without guards.

    Args:
        loss: pure function ``loss(params, *args, **kwargs)`` to a real 0-d tensor.
        backend: what runs the programs of the transforms: "eager", operator by operator, or "inductor", compiled.
        strict: raise where a transform's program cannot be proven, instead of a warning and double backward.
        unverified: allow operators whose second derivatives have not been verified.

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
    return CapturedLoss(loss, backend=backend, strict=strict, unverified=unverified)


def _require_verified(graph: fx.Graph, params: int) -> None:
    found = unverified_in(graph, params)
    if found:
        raise CaptureError(
            f"{', '.join(found)}: no decomposition into simpler operators, and no verified second derivative; write it "
            "in simpler operators, or say capture(..., unverified=True) and check the result with check_quadratic"
        )


def _name_inputs(graph: fx.Graph, params: Tree, state: list[str]) -> None:
    """Call the inputs by the names of parameters and state, as far as they can be identifiers."""
    names = [f"params{path}" for path, _ in tree.named_leaves(params)]
    names += [f"state_{_NAMES.findall(source)[-1]}" for source in state]
    placeholders = graph.find_nodes(op="placeholder")
    names += [f"arg_{i}" for i in range(len(placeholders) - len(names))]
    for node, name in zip(placeholders, names, strict=True):
        clean = "".join(c if c.isalnum() else "_" for c in name.replace("']", "").replace("['", "_"))
        node._rename(clean)
        node.target = node.name


def _operators(loss: Callable[..., Tensor], params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[str]:
    assert isinstance(loss, CapturedLoss)
    program = loss.program(params, *args, **kwargs)
    if program.schemes.misled:
        raise StrategyError(
            "PyTorch's second derivatives of the program are not those of its values, as differences have shown; leave "
            "out strategy= to have the library's own"
        )
    return program.active


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def _draws(operator: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in operator.tags


def _short(operator: Any) -> str:
    return str(operator.overloadpacket.__name__)
