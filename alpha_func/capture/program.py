"""A loss as a program of primitive operators.

PyTorch's derivatives of composite operators are not all right when they are differentiated again; those of primitive
ones are. A captured loss is the loss, traced and lowered to primitives before anything is differentiated.
"""

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from alpha_func import tree
from alpha_func.capture.builder.active import active_operators
from alpha_func.capture.builder.active import unverified as unverified_in
from alpha_func.capture.running.engine import Captured
from alpha_func.capture.running.first_use import FirstUse
from alpha_func.capture.running.schemes import Schemes
from alpha_func.capture.tracing.agreement import require_agreement
from alpha_func.capture.tracing.refusal import EAGER
from alpha_func.capture.tracing.surroundings import Surroundings
from alpha_func.capture.tracing.tracing import trace
from alpha_func.errors import CaptureError
from alpha_func.losses.draws import seeded_rng
from alpha_func.losses.module_loss import LossOfLoss, ModuleLoss, lifted
from alpha_func.losses.signature import Key, signature
from alpha_func.transforms.engine import Engine, Uncaptured
from alpha_func.transforms.guard import Looked
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import require_callable, scalar_loss
from alpha_func.tree import Tree

BACKENDS = ("eager", "inductor")
MAX_PROGRAMS = 32  # kept by a captured loss, the least recently used dropped


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

    def __init__(self, loss: Callable[..., Tensor], *, backend: str, strict: bool, constants: bool, unverified: bool):
        self.loss, self.backend = loss, backend
        self._first_use = FirstUse(strict)
        self._constants, self._unverified = constants, unverified
        self._sources: list[ModuleLoss] = [loss] if isinstance(loss, ModuleLoss) else []
        self._surroundings = Surroundings(loss)
        self._programs: OrderedDict[Key, Program] = OrderedDict()
        self.captured = 0  # how often a program was

    def __reduce__(self) -> Any:
        """Pickled and copied without its programs, which are captured anew."""
        options: dict[str, Any] = {
            "backend": self.backend,
            "strict": self._first_use.strict,
            "unverified": self._unverified,
        }
        return partial(capture, constants=self._constants, **options), (self.loss,)

    def __call__(self, params: Tree, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, by its program."""
        program, inputs = self.lookup(params, args, kwargs)
        return program(*inputs)

    def engine(self, strategy: StrategyLike | None) -> Engine:
        """The schemes of its programs; with a strategy, that on them."""
        by_strategy = Uncaptured(self, strategy, _operators)
        if strategy is not None:
            return by_strategy
        return Captured(self.loss, self._schemes, self.backend, self._first_use, by_strategy)

    def program(self, params: Tree, *args: Any, **kwargs: Any) -> Program:
        """The program of this signature, captured now if it has not been; print it to read it."""
        return self.lookup(params, args, kwargs)[0]

    def lookup(self, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, list[Tensor]]:
        """The program for these arguments and its inputs: parameters, state as it is now, tensor arguments."""
        if torch._C._is_any_autocast_enabled():
            raise CaptureError(
                "a captured loss is called under autocast, whose casts would be written into the program: "
                "leave autocast for the call, and give parameters and batch the dtype to compute in"
            )
        state: list[Tensor] = []
        tokens = []
        for source in self._sources:
            token, tensors = source.state.read()
            tokens.append(token)
            state += tensors
        key, inputs = signature(params, args, kwargs, state)
        key = self._full(key, tokens)
        program = self._programs.get(key)
        if program is None:
            return self._capture(params, args, kwargs)
        self._programs.move_to_end(key)
        return program, inputs

    def _schemes(self, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Schemes, list[Tensor]]:
        program, inputs = self.lookup(params, args, kwargs)
        return program.schemes, inputs

    def _full(self, key: Key, tokens: list[int]) -> Key:
        return (*key, *tokens, *self._surroundings.read(), torch.get_default_dtype())

    def _capture(self, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, list[Tensor]]:
        states = {source: source.state.tensors() for source in self._sources}
        tokens = [source.state.read()[0] for source in self._sources]
        key, inputs = signature(params, args, kwargs, [t for state in states.values() for t in state.values()])
        try:
            program = self._traced(params, args, kwargs, states, inputs)
            require_agreement(self.loss, program.graph, program.seed, inputs, params, args, kwargs)
        except _Found as found:  # a functional_loss within the loss: its state is an input too
            self._sources.append(found.source)
            return self._capture(params, args, kwargs)
        except CaptureError:
            raise
        except Exception as error:
            scalar_loss(self.loss, args, kwargs)(params)  # the loss's own error, where it is one
            raise CaptureError(f"the loss cannot be traced: {type(error).__name__}: {error}; {EAGER}") from error
        self._programs[self._full(key, tokens)] = program
        self._bound()
        return program, inputs

    def _traced(
        self,
        params: Tree,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        states: dict[ModuleLoss, dict[str, Tensor]],
        inputs: list[Tensor],
    ) -> Program:
        leaves, structure = tree.flatten((params, args, kwargs))
        count = len(tree.leaves(params))
        is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        held = sum(map(len, states.values()))

        def of_inputs(*tensors: Tensor) -> Tensor:
            given = iter(tensors[count : count + held])
            lifted_states = {source: {name: next(given) for name in state} for source, state in states.items()}

            def state_of(source: ModuleLoss) -> dict[str, Tensor]:
                if source not in lifted_states:
                    raise _Found(source)
                return lifted_states[source]

            tensor = iter((*tensors[:count], *tensors[count + held :]))
            rebuilt = [next(tensor) if is_t else leaf for leaf, is_t in zip(leaves, is_tensor, strict=True)]
            params, args, kwargs = tree.unflatten(rebuilt, structure)
            with lifted(state_of):
                return scalar_loss(self.loss, args, kwargs)(params)

        traced = trace(of_inputs, inputs, constants=self._constants)
        graph = traced.graph
        _name_inputs(graph, params, states, count + held)
        if not self._unverified:
            _require_verified(graph, count)
        traced.recompile()
        return Program(traced, count, self._seed(graph))

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

    def _bound(self) -> None:
        self.captured += 1
        if len(self._programs) > MAX_PROGRAMS:
            self._programs.popitem(last=False)
        if self.captured == 2 * MAX_PROGRAMS:
            warnings.warn(
                f"captured {self.captured} programs of one loss, of which {MAX_PROGRAMS} are kept: something in its "
                "signature changes at every call (a shape, or an argument that is not a tensor; pass it as one)",
                stacklevel=5,
            )


class _Found(Exception):  # noqa: N818  not an error
    """A ModuleLoss whose state is not an input yet."""

    def __init__(self, source: ModuleLoss):
        super().__init__()
        self.source = source


def capture(
    loss: Callable[..., Tensor],
    *,
    backend: str = "eager",
    strict: bool = False,
    constants: bool = False,
    unverified: bool = False,
) -> CapturedLoss:
    """The loss as a program of primitive operators, whose derivatives of every order are right.

    At the first call per signature (structure, shapes, dtypes, devices, arguments that are no tensors, the module's
    mode and simple attributes) the loss is traced, without computing anything, and lowered, and the program's value is
    compared with the loss's own (one forward pass); later calls run the program. Up to 32 programs are kept.

    What a transform makes of the program is proven too, at its first call: its numbers are compared with PyTorch's
    first derivatives of the loss itself and second derivatives of its primitives, at the values of the call and at
    parameters near them. One that differs beyond rounding, or raises, is given up with a CaptureWarning that names what
    is to blame, and double backward answers, right and slower. The price is a few gradients.

    A loss from ``functional_loss``, the loss itself or one called within it, has its state (buffers, frozen parameters,
    tensor attributes) read anew at every call, and its random draws seeded. Any other closed-over tensor is refused.

    Args:
        loss: pure function ``loss(params, *args, **kwargs)`` to a real 0-d tensor.
        backend: what runs the programs of the transforms: "eager", operator by operator, or "inductor", compiled.
        strict: raise where a transform's program cannot be proven, instead of a warning and double backward.
        constants: keep closed-over tensors in the program, as the objects that they are at the first call.
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
    return CapturedLoss(loss, backend=backend, strict=strict, constants=constants, unverified=unverified)


def _require_verified(graph: fx.Graph, params: int) -> None:
    found = unverified_in(graph, params)
    if found:
        raise CaptureError(
            f"{', '.join(found)}: no decomposition into simpler operators, and no verified second derivative; write it "
            "in simpler operators, or say capture(..., unverified=True) and check the result with check_quadratic"
        )


def _name_inputs(graph: fx.Graph, params: Tree, states: dict[ModuleLoss, dict[str, Tensor]], arguments: int) -> None:
    """Call the inputs by the names of parameters and state, as far as they can be identifiers."""
    names = [f"params{path}" for path, _ in tree.named_leaves(params)]
    names += [f"state_{name}" for state in states.values() for name in state]
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    names += [f"arg_{i}" for i in range(len(placeholders) - arguments)]
    for node, name in zip(placeholders, names, strict=True):
        clean = "".join(c if c.isalnum() else "_" for c in name.replace("']", "").replace("['", "_"))
        node._rename(clean)
        node.target = node.name


def _operators(loss: Callable[..., Tensor], params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Looked:
    assert isinstance(loss, CapturedLoss)
    return Looked(active_operators(loss.program(params, *args, **kwargs)), "primitive")


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def _draws(operator: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in operator.tags


def _short(operator: Any) -> str:
    return str(operator.overloadpacket.__name__)
