"""A loss as a program of primitive operators.

PyTorch's derivatives of composite operators are not all right when they are differentiated again; those of primitive
ones are. A recorded loss is lowered to primitives before anything is differentiated.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.active import active_nodes, operator_name, unverified_operators
from alpha_func.capture.builder.values import Operator
from alpha_func.capture.running.schemes import Schemes
from alpha_func.capture.tracing.agreement import aside, require_agreement
from alpha_func.capture.tracing.recording import Recording
from alpha_func.capture.tracing.refusal import EAGER
from alpha_func.capture.tracing.tracing import trace
from alpha_func.errors import CaptureError, ImpureLossError
from alpha_func.losses.draws import seeded_rng
from alpha_func.losses.looking import ANOTHER_WAY
from alpha_func.losses.memory import Memory
from alpha_func.losses.module_loss import ModuleLoss
from alpha_func.torch_private import OpOverload
from alpha_func.transforms.validation import scalar_loss
from alpha_func.tree import Tree

_NAMES = re.compile(r"[^\W\d]\w*")
LossCall = tuple[Tree, Args, Kwargs]  # params, args, kwargs


class Program:
    """A loss at one signature: a graph of primitive operators, from flat inputs to a 0-d tensor.

    Call it with its inputs as tensors: the leaves of the parameters, the state, the tensors among the arguments.

    Attributes:
        graph: the fx.GraphModule, normalisations whole; what a call runs has them in primitives.
        params: how many of the inputs, the first ones, are leaves of the parameters.
        counts: how often each operator occurs, the most frequent first.
        seed: of the random draws of the program; None where it draws nothing.
        schemes: the programs made of this one, which the transforms run.
        by_value: whether values of its inputs have decided how it is written.
        of_shards: those made of it for parameters that are sharded, by where the shards are.
        apart: where parameters and state last were found to lie in memory of their own.
    """

    def __init__(self, graph: fx.GraphModule, params: int, seed: int | None):
        self.graph, self.params, self.seed = graph, params, seed
        self.by_value = False
        self.counts = dict(Counter(_short(n.target) for n in graph.graph.nodes if _is_operator(n)).most_common())
        self.schemes = Schemes(graph, params, seed)
        self.of_shards: dict[Any, Any] = {}
        self.apart: list[int] | None = None

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


def program_of(
    loss: Callable[..., Tensor],
    recording: Recording,
    inputs: Sequence[Any],
    call: LossCall,
    *,
    unverified: bool,
    trusted: Collection[str] = (),
    has_values: bool = True,
) -> tuple[Program, list[int]]:
    """A recording as a program, whose value has been compared with the loss's own.

    Args:
        loss: what was recorded.
        recording: of the loss, for such a call.
        inputs: of the recording.
        call: what the loss was called with.
        unverified: whether operators are allowed whose second derivatives have not been verified.
        has_values: whether the tensors of the call have; else the loss is not called, and the program not compared.

    Returns:
        The program, and which inputs of the recording are its state: what the loss reads besides its arguments.

    Raises:
        CaptureError: the recording cannot be lowered, or the program is another function.
    """
    params = call[0]
    tensors = [leaf for leaf in tree.leaves(call) if isinstance(leaf, Tensor)]
    count, given = len(tree.leaves(params)), {id(tensor) for tensor in tensors}
    state = [i for i, value in enumerate(inputs) if id(value) not in given]
    for i in state:
        if not isinstance(inputs[i], Tensor):
            kind = type(inputs[i]).__name__
            raise CaptureError(f"the loss reads {recording.sources[i]}, a {kind}, which cannot be captured; {EAGER}")
    like = [*tensors[:count], *[inputs[i] for i in state], *tensors[count:]]
    place = {id(tensor): i for i, tensor in enumerate(like)}
    try:
        traced = trace(recording.graph, like, [place[id(value)] for value in inputs])
    except CaptureError:
        raise
    except Exception as error:
        if has_values:
            raise_its_own_error(loss, call)
        raise CaptureError(f"the loss cannot be traced: {type(error).__name__}: {error}; {EAGER}") from error
    graph = traced.graph
    (output,) = graph.output_node().all_input_nodes
    value = output.meta["val"]
    if value.ndim or not value.is_floating_point():
        if has_values:
            raise_its_own_error(loss, call)
        raise CaptureError(f"loss must return a real scalar, got shape {tuple(value.shape)}, {value.dtype}")
    _name_inputs(graph, params, [recording.sources[i] for i in state])
    if not unverified:
        _require_verified(graph, count, trusted)
    traced.recompile()
    program = Program(traced, count, _seed(loss, graph))
    program.by_value = recording.by_value
    if has_values:
        require_agreement(loss, program.graph, program.seed, like, *call)
    return program, state


def raise_its_own_error(loss: Callable[..., Tensor], call: LossCall) -> None:
    """Raise the error that the loss itself raises, or that its value is not a loss, where there is one."""

    def copied(leaf: object) -> object:  # a loss may differentiate within, or write to what is not a leaf of a graph
        return leaf.detach().requires_grad_(leaf.requires_grad).clone() if isinstance(leaf, Tensor) else leaf

    with aside(), torch.enable_grad():
        params, args, kwargs = tree.map(copied, call)
        scalar_loss(loss, args, kwargs)(params)


def require_apart(loss: Callable[..., Tensor], params: Tree, held: list[Tensor], sources: list[str]) -> None:
    """Refuse state in the memory of a parameter, through which no derivative would pass."""
    named = [(f"params{path}", leaf) for path, leaf in tree.named_leaves(params)]
    memory = Memory([*named, *(loss.trained() if isinstance(loss, ModuleLoss) else ())])
    for tensor, source in zip(held, sources, strict=True):
        name = memory.owner(tensor)
        if name is not None:
            raise ImpureLossError(ANOTHER_WAY.format(name=name, what=f"{source} is", shape=tuple(tensor.shape)))


def _seed(loss: Callable[..., Tensor], graph: fx.Graph) -> int | None:
    draws = [node for node in graph.nodes if _is_operator(node) and _draws(node.target)]
    if not draws:
        return None
    if isinstance(loss, ModuleLoss):
        return loss.seed
    raise CaptureError(
        f"{draws[0].target} draws from the global RNG: the loss is not a function of its arguments; draw in a module "
        "and let functional_loss(module, criterion, seed=...) seed it, or pass the random tensor as an argument"
    )


def _require_verified(graph: fx.Graph, params: int, trusted: Collection[str]) -> None:
    found = [name for name in unverified_operators(graph, params) if name not in trusted]
    if found:
        raise CaptureError(
            f"{', '.join(found)} cannot be captured: it has no decomposition into simpler operators and no verified "
            "second derivative; write it in simpler operators, or pass capture(..., trust=[the operator]), which "
            "checks it, or unverified=True, which does not"
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


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, OpOverload)


def _draws(operator: Operator) -> bool:
    return torch.Tag.nondeterministic_seeded in operator.tags


def _short(operator: Operator) -> str:
    return str(operator.overloadpacket.__name__)
