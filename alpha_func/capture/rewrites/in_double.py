"""A program in double precision: every floating value of it, whatever dtypes it was traced in.

Rules and laws are the same in every precision, and so are their errors; in float64 no rounding hides one.
"""

from operator import getitem

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from alpha_func.capture.builder.builder import Builder, fake_mode, finished, is_impure, replay
from alpha_func.capture.builder.operands import is_inexact
from alpha_func.capture.builder.values import Value
from alpha_func.losses.in_double import doubled

aten = torch.ops.aten

_WIDE = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64)
_WIDE |= dict.fromkeys((torch.complex32, torch.complex64), torch.complex128)


def program_in_double(program: fx.GraphModule) -> fx.GraphModule:
    """The program for inputs in double precision; a draw, and what reads bits, stays as it was, then widened.

    The ``meta["val"]`` of its nodes are those of the program.
    """
    graph, env = fx.Graph(), dict[fx.Node, fx.Node]()
    constants: dict[str, object] = {}
    own: set[fx.Node] = set()  # calls in the program's own precision, which may have several outputs

    def converted(node: fx.Node, dtype: torch.dtype) -> fx.Node:
        return graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})

    def narrowed(node: fx.Node) -> fx.Node:
        val = node.meta.get("val")
        return converted(env[node], val.dtype) if isinstance(val, Tensor) and val.dtype in _WIDE else env[node]

    def widened(node: fx.Node, new: fx.Node) -> fx.Node:
        val = node.meta.get("val")
        return converted(new, _WIDE[val.dtype]) if isinstance(val, Tensor) and val.dtype in _WIDE else new

    for node in program.graph.nodes:
        if node.op == "get_attr":
            constants[str(node.target)] = doubled(getattr(program, str(node.target)))
        if node.op == "call_function" and _in_its_own_precision(node):
            own.add(node)
            env[node] = widened(node, graph.node_copy(node, narrowed))
        elif node.target is getitem and node.args[0] in own:
            env[node] = widened(node, graph.node_copy(node, env.__getitem__))
        else:
            env[node] = new = graph.node_copy(node, env.__getitem__)
            new.args, new.kwargs = map_aggregate((new.args, new.kwargs), _wide)
    return fx.GraphModule(constants, graph)


def rewritten_in_double(program: fx.GraphModule) -> fx.GraphModule:
    """The same as a program for more to be written of, its ``meta["val"]`` in double precision."""
    b = Builder({}, fake_mode(program))
    placeholders = program.graph.find_nodes(op="placeholder")
    inputs = [b.placeholder(str(node.target), doubled(b.as_fake(node.meta["val"]))) for node in placeholders]
    return finished(b, replay(program_in_double(program), inputs, b))


def _wide(value: Value) -> Value:
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value


def _in_its_own_precision(node: fx.Node) -> bool:
    """Draws, which differ by dtype, bits, and what is made of integers or of nothing in the default dtype."""
    if is_impure(node.target) or node.target is aten.view.dtype:
        return True
    return "dtype" not in node.kwargs and is_inexact(node) and not any(map(is_inexact, node.all_input_nodes))
