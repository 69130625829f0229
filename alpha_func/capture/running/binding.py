"""Operators called by torch's own functions, at half of what it costs to call an operator of ``torch.ops``.

On a small net the calls are the time. Each function dispatches to its operator and to nothing else; an inner product of
long vectors is taken in pieces.
"""

import torch
from torch import fx

from alpha_func import tree
from alpha_func.calls import Function
from alpha_func.capture.builder.operands import dtype_of, is_number

aten = torch.ops.aten

FUNCTIONS: dict[Function, Function] = {
    aten.add.Tensor: torch.add,
    aten.addcmul.default: torch.addcmul,
    aten.addmm.default: torch.addmm,
    aten.baddbmm.default: torch.baddbmm,
    aten.bmm.default: torch.bmm,
    aten.dot.default: torch.dot,
    aten.exp.default: torch.exp,
    aten.mean.default: torch.mean,
    aten.mm.default: torch.mm,
    aten.mul.Tensor: torch.mul,
    aten.neg.default: torch.neg,
    aten.permute.default: torch.permute,
    aten.relu.default: torch.relu,
    aten.reshape.default: torch.reshape,
    aten.rsub.Scalar: torch.rsub,
    aten.select.int: torch.select,
    aten.sigmoid.default: torch.sigmoid,
    aten.sum.default: torch.sum,
    aten.sum.dim_IntList: torch.sum,
    aten.tanh.default: torch.tanh,
    aten.unsqueeze.default: torch.unsqueeze,
}


def bind(program: fx.GraphModule) -> fx.GraphModule:
    """A copy of the program whose operators are called by torch's functions, −1·x as −x."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    return bound(program, graph)


def bound(program: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """That of a graph which nobody else needs; the program holds its constants."""
    for node in graph.find_nodes(op="call_function", target=aten.mul.Tensor):
        x, c = node.args
        if is_number(c) and c == -1 and dtype_of(x) == dtype_of(node) != torch.bool:
            node.target, node.args = aten.neg.default, node.args[:1]
    for node in graph.nodes:
        long = node.target is aten.dot.default and node.args[0].meta["val"].numel() > tree.PIECE
        node.target = tree.dot if long else FUNCTIONS.get(node.target, node.target)
    return fx.GraphModule(program, graph)
