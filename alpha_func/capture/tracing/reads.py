"""Values that a loss reads on its way: a number (``lengths.tolist()``), or how many places of a mask are true.

A program is the same for all values of its inputs but these: they are what its shapes and its calls have been made for.
Each is computed anew at every call, from the inputs that it depends on, and the program is another one
where it has changed. No value that depends on the parameters is read so: it would change with every step. Nor is one
that depends on a draw, or on a write, which the computing anew would not see, or would do to the caller's tensors.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from alpha_func import torch_private, tree
from alpha_func.calls import Args, Kwargs
from alpha_func.torch_private import OpOverload, TorchDispatchMode

aten = torch.ops.aten

COUNT = "alpha_func_count"  # in the ``meta`` of a node: how many places of its masks are true


class _DrawnError(Exception):
    """A value is drawn, and so another one at every call."""


class _NoDraws(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: OpOverload, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _DrawnError
        return func(*args, **(kwargs or {}))


class Read:
    """A value, and how it is computed.

    Args:
        node: of the graph that TorchDynamo is writing, whose value it is.
        then: what of it is read.

    Attributes:
        value: as it is now.
    """

    def __init__(self, node: fx.Node, then: Callable[[Tensor], Tensor]):
        self.sources: list[str] = []
        graph, env, examples = fx.Graph(), dict[fx.Node, fx.Node](), list[Tensor]()
        for n in _ancestors(node):
            env[n] = graph.node_copy(n, env.__getitem__)
            if n.op == "placeholder":
                self.sources.append(torch_private.source_of(n))
                examples.append(torch_private.example_of(n))
        graph.output(graph.call_function(then, (env[node],)))
        self._run = fx.GraphModule({}, graph)
        with torch_private.modes_disabled(), _NoDraws():
            self.value = self.of(*examples)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value for these inputs."""
        with torch_private.modes_disabled():
            return self.of(*inputs)

    def of(self, *inputs: Tensor) -> Tensor:
        """The same under the transforms and modes around."""
        with torch.no_grad():
            found: Tensor = self._run(*inputs)
            return found


def read_of(node: fx.Node, then: Callable[[Tensor], Tensor] = torch.clone) -> Read | None:
    """A read of the value of a node; None where it depends on a parameter, a draw or a write."""
    for n in _ancestors(node):
        if n.op == "placeholder":
            if not isinstance(torch_private.example_of(n), Tensor) or torch_private.example_of(n).requires_grad:
                return None
        elif n.op not in ("call_function", "call_method") or n.target is torch.empty:
            return None
        if any(isinstance(value, Tensor) and value._version for value in tree.leaves(n.meta.get("example_value"))):
            return None  # written to, here or through a view
    try:
        return Read(node, then)
    except _DrawnError:
        return None


def same_in_a_batch(value: Tensor, expected: Tensor) -> bool:
    """Whether every example of what may be batched by vmap is the expected value."""
    while torch_private.is_functorch_wrapped_tensor(value):
        dim = torch_private.maybe_get_bdim(value) if torch_private.is_batchedtensor(value) else None
        value = torch_private.get_unwrapped(value)
        value = value if dim is None else value.movedim(dim, 0)
    return value.shape[value.ndim - expected.ndim :] == expected.shape and bool((value == expected).all())


def masks_of(node: fx.Node) -> list[fx.Node]:
    """The masks by whose true places a call of a graph of TorchDynamo's takes entries; empty where it does not."""
    if node.target is operator.getitem:
        return _masks_in(node.args[1])
    name = getattr(node.target, "__name__", node.target)
    if name == "masked_select":
        return _masks_in(node.kwargs.get("mask", node.args[1:]))
    if name in ("nonzero", "argwhere") or (name == "where" and len(node.args) == 1):
        return list(node.all_input_nodes[:1])
    return []


def _masks_in(index: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(index, found.append)
    values = [n.meta.get("example_value") for n in found]
    kinds = torch.bool, torch.uint8
    return [n for n, value in zip(found, values, strict=True) if isinstance(value, Tensor) and value.dtype in kinds]


def _ancestors(node: fx.Node) -> list[fx.Node]:
    """What a node is computed from, and itself, in order."""
    wanted, waiting = {node}, [node]
    while waiting:
        for n in waiting.pop().all_input_nodes:
            if n not in wanted:
                wanted.add(n)
                waiting.append(n)
    return [n for n in node.graph.nodes if n in wanted]


# In a program: entries at a number of places that is known. Another number of them is an error, never another value.


def _places(mask: Tensor, count: int) -> Tensor:
    places = aten.nonzero_static.default(mask, size=count)
    return places + (mask.count_nonzero() != count) * _NOWHERE


def _nonzero(count: int, x: Tensor) -> Tensor:
    return _places(x, count)


def _masked_select(count: int, x: Tensor, mask: Tensor) -> Tensor:
    own = mask.numel()
    x, mask = torch.broadcast_tensors(x, mask)  # type: ignore[no-untyped-call]
    count *= mask.numel() // max(own, 1)
    return aten.index.Tensor(x.reshape(-1), [_places(mask.reshape(-1), count)[:, 0]])


def _index(count: int, x: Tensor, indices: list[Tensor | None]) -> Tensor:
    found: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype in (torch.bool, torch.uint8)
        found += _places(index, count).unbind(1) if is_mask and index is not None else [index]
    return aten.index.Tensor(x, found)


BY_COUNT: dict[OpOverload, Callable[..., Tensor]] = {
    aten.index.Tensor: _index,
    aten.masked_select.default: _masked_select,
    aten.nonzero.default: _nonzero,
}
_NOWHERE = 2**40
