"""Gathers of several tensors as one collective.

Each tensor is gathered by a chain of calls, as PyTorch writes it: what is done to the shard, ``all_gather``, ``wait``,
what is done to that; over a mesh of two dimensions twice. Chains that are written together go stage by stage, and the
``all_gather`` calls of a stage that are over one group are one.
"""

from collections.abc import Iterable
from operator import getitem

import torch
from torch import fx

from alpha_func.capture.builder.values import Value

c10d = torch.ops._c10d_functional
GATHER, WAIT = c10d.all_gather_into_tensor.default, c10d.wait_tensor.default
TOGETHER = c10d.all_gather_into_tensor_coalesced.default


class Chain:
    """The gather of one input, being written.

    Args:
        source: the local shard.
        trace: the program (local) -> whole.
    """

    def __init__(self, source: fx.Node, trace: fx.GraphModule):
        (self._given,) = trace.graph.find_nodes(op="placeholder")
        self._calls = [node for node in trace.graph.nodes if node.op == "call_function"]
        (self._result,) = trace.graph.output_node().all_input_nodes
        self._env = {self._given: source}
        self._level = {self._given: 0}
        for node in self._calls:
            before = max((self._level[operand] for operand in node.all_input_nodes), default=0)
            self._level[node] = before + (node.target is GATHER)

    @property
    def stages(self) -> int:
        """How many gathers come one after the other."""
        return max(self._level.values())

    @property
    def whole(self) -> fx.Node:
        """What has been gathered."""
        return self._env[self._result]

    def prepare(self, graph: fx.Graph, stage: int) -> list[fx.Node]:
        """Write what comes between the gathers of a stage and those of the one before; the latter, of the trace."""
        for node in self._calls:
            if self._level[node] == stage and node.target is not GATHER:
                self._env[node] = graph.node_copy(node, self._env.__getitem__)
        return [node for node in self._calls if self._level[node] == stage + 1 and node.target is GATHER]

    def operand(self, gather: fx.Node) -> fx.Node:
        """What a gather of the trace is of."""
        return self._env[gather.all_input_nodes[0]]

    def gathered(self, gather: fx.Node, node: fx.Node) -> None:
        """A gather has been written."""
        node.meta = dict(gather.meta)
        self._env[gather] = node


def emit(graph: fx.Graph, chains: list[Chain], before: fx.Node, stages: Iterable[int]) -> None:
    """Write some stages of the chains, each with its gathers together, before a node."""
    with graph.inserting_before(before):
        for stage in stages:
            together: dict[tuple[Value, Value, Value], list[tuple[Chain, fx.Node]]] = {}
            for chain in chains:
                for gather in chain.prepare(graph, stage):
                    _, size, group = gather.args
                    together.setdefault((size, group, gather.meta["val"].dtype), []).append((chain, gather))
            for (size, group, _), gathers in together.items():
                _write(graph, gathers, size, group)


def _write(graph: fx.Graph, gathers: list[tuple[Chain, fx.Node]], size: Value, group: Value) -> None:
    operands = [chain.operand(gather) for chain, gather in gathers]
    if len(gathers) == 1:
        ((chain, gather),) = gathers
        chain.gathered(gather, graph.call_function(GATHER, (*operands, size, group)))
        return
    every = graph.call_function(TOGETHER, (operands, size, group))
    every.meta["val"] = [gather.meta["val"] for _, gather in gathers]
    for i, (chain, gather) in enumerate(gathers):
        chain.gathered(gather, graph.call_function(getitem, (every, i)))
