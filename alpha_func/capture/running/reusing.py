"""Operators write into memory that nothing needs any more, where a new tensor would be as large.

A program that runs operator by operator is bound by memory: a product of two tensors that is written into new pages
costs up to four times one that is written over an operand. Only memory that the program made itself is written over.
"""

from operator import getitem

import torch
from torch import Tensor, fx

from alpha_func import tree
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.torch_private import LazyGraphModule, allocates, memory_id, out_argument

aten = torch.ops.aten

_LARGE = 2**14  # entries; a smaller tensor is made in less time than it takes to say where
_NEAR = 32  # operators that memory may wait to be used again; what waits is not freed

# Elementwise: they may write over an operand.
_ELEMENTWISE: dict[Operator, Operator] = {
    aten.add.Tensor: aten.add.out,
    aten.addcmul.default: aten.addcmul.out,
    aten.exp.default: aten.exp.out,
    aten.gelu.default: aten.gelu.out,
    aten.gelu_backward.default: aten.gelu_backward.grad_input,
    aten.mul.Tensor: aten.mul.out,
    aten.sigmoid.default: aten.sigmoid.out,
    aten.silu.default: aten.silu.out,
    aten.silu_backward.default: aten.silu_backward.grad_input,
    aten.tanh.default: aten.tanh.out,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}
# They may write over their first operand.
_ADDED_TO: dict[Operator, Operator] = {aten.addmm.default: aten.addmm.out, aten.baddbmm.default: aten.baddbmm.out}
_TO = {**_ELEMENTWISE, **_ADDED_TO, aten.bmm.default: aten.bmm.out, aten.mm.default: aten.mm.out}
_NAME = {target: out_argument(out) for target, out in _TO.items()}


def reuse(program: fx.GraphModule) -> fx.GraphModule:
    """A copy of the program with large results in used memory; its inputs and outputs are never written over."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    nodes = list(graph.nodes)
    memory = memory_of(nodes)
    end = {place: i for i, node in enumerate(nodes) for operand in node.all_input_nodes for place in memory[operand]}
    free: list[tuple[int, fx.Node]] = []  # (since when, memory)
    for i, node in enumerate(nodes):
        held = dict.fromkeys(place for operand in node.all_input_nodes for place in memory[operand])
        ending = [place for place in held if end[place] == i and _is_own(place)]
        place = None
        if node.target in _TO and _is_large(node):
            over = node.args if node.target in _ELEMENTWISE else node.args[:1] if node.target in _ADDED_TO else ()
            factors = node.args[1:] if node.target in _ADDED_TO else ()
            read = [x for x in node.all_input_nodes if memory[x] != {x} or x in factors]  # views, factors
            kept = {place for x in read for place in memory[x]}
            place = next((x for x in ending if x in over and x not in kept and _fits(x, node)), None)
            free = [(since, x) for since, x in free if i - since <= _NEAR]
            if place is None:
                place = next((x for _, x in reversed(free) if _fits(x, node)), None)
                free = [(since, x) for since, x in free if x is not place]
        free += [(i, x) for x in ending if x is not place]
        if place is not None:
            node.kwargs = {**node.kwargs, _NAME[node.target]: place}
            node.target = _TO[node.target]
    return LazyGraphModule(program, graph)


def memory_of(nodes: list[fx.Node]) -> dict[fx.Node, set[fx.Node]]:
    """For each node, those whose memory it may hold: itself, where it is known to allocate; else all that its operands
    may hold."""
    memory: dict[fx.Node, set[fx.Node]] = {}
    parts: dict[Operator, fx.Node] = {}
    for node in nodes:
        operands = node.all_input_nodes
        if node.target is getitem and memory[operands[0]] == {operands[0]}:
            memory[node] = {parts.setdefault(node.args, node)}
        elif not operands or _allocates(node):
            memory[node] = {node}
        else:
            memory[node] = {place for operand in operands for place in memory[operand]}
    return memory


def _allocates(node: fx.Node) -> bool:
    """Whether a result shares memory with no operand: neither the schema of its operator nor the trace shows that it
    does (``unsafe_split`` hides it from its schema).
    """
    return allocates(node.target) and _storages([node]).isdisjoint(_storages(node.all_input_nodes))


def _storages(nodes: list[fx.Node]) -> set[int]:
    return {memory_id(leaf) for node in nodes for leaf in _parts(node.meta.get("val")) if isinstance(leaf, Tensor)}


def _parts(val: Value) -> list[Value]:
    return [val] if isinstance(val, Tensor) else tree.leaves(val)


def _is_own(base: fx.Node) -> bool:
    """Whether memory is the program's, and of one tensor."""
    return base.op == "call_function" and isinstance(base.meta["val"], Tensor)


def _is_large(node: fx.Node) -> bool:
    return bool(node.meta["val"].numel() >= _LARGE)


def _fits(memory: fx.Node, node: fx.Node) -> bool:
    """Whether the result has its place there."""
    x, y = memory.meta["val"], node.meta["val"]
    return (x.shape, x.dtype, x.stride(), x.device) == (y.shape, y.dtype, y.stride(), y.device)
