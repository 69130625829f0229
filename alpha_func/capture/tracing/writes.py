"""Calls of a traced loss that write in place, as calls that give a tensor.

PyTorch's functionalize does not see into composites: what an RNN writes to within itself, a trace still writes to; and
what itself is composed and writes (``square_``, ``fill_diagonal_``) it takes for a foreign operator.
"""

from operator import getitem
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.results import result_of
from alpha_func.capture.builder.values import Value
from alpha_func.capture.tracing.lowering import decompositions
from alpha_func.torch_private import (
    OpOverload,
    allocates,
    composite_in_place,
    decomposed,
    given_to,
    is_composite,
    returning,
    writes_in_place,
)

aten = torch.ops.aten

_CUTS = {aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default}  # in pieces that lie apart


class Composed(TorchFunctionMode):
    """A composed write in place as the writes that it is composed of."""

    def __torch_function__(self, func: Any, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        """The call, or its parts."""
        kwargs = kwargs or {}
        composite = composite_in_place(getattr(func, "__name__", ""), args, kwargs)
        return func(*args, **kwargs) if composite is None else decomposed(composite, args, kwargs)


def changes_something(node: fx.Node) -> bool:
    """Whether a call writes to one of its operands."""
    return isinstance(node.target, OpOverload) and writes_in_place(node.target)


def write_nowhere(graph: fx.Graph) -> None:
    """What writes to new memory that nothing else reads gives a tensor instead (attention dropout, the gates of an
    LSTM): a trace is spared.
    """
    lowered = decompositions()
    moved = set[fx.Node]()  # they lie in memory otherwise than they did, or may
    mode = None
    for node in graph.nodes:
        if node.op == "call_function" and changes_something(node):
            own, pure, val = node.args[0], returning(node.target), node.meta["val"]
            if pure is None or is_composite(pure) or pure in lowered or not _is_read_here_alone(own):
                continue
            args, mode = given_to(pure, node.target, node.args), val.fake_mode
            given = result_of(mode, pure, args, node.kwargs)
            if (given.shape, given.dtype) == (val.shape, val.dtype):
                node.target, node.args, node.meta["val"] = pure, args, given
                if given.stride() != val.stride():
                    moved.add(node)
        elif node.op == "call_function" and not moved.isdisjoint(node.all_input_nodes):
            assert mode is not None
            node.meta["val"] = result_of(mode, node.target, node.args, node.kwargs)
            moved.add(node)


def _is_read_here_alone(node: Value) -> bool:
    """Whether a tensor is new, or a piece of a new one, and one call alone reads it."""
    if not isinstance(node, fx.Node) or len(node.users) > 1:
        return False
    if node.target is not getitem:
        return isinstance(node.target, OpOverload) and allocates(node.target)
    pieces, place = node.args
    assert isinstance(pieces, fx.Node)
    places = [user.args[1] for user in pieces.users]
    return pieces.target in _CUTS and places.count(place) == 1 and _is_read_here_alone(pieces.args[0])
