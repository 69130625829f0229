"""Values that a loss reads on its way: a number (``lengths.tolist()``), or how many places of a mask are true.

A program is the same for all values of its inputs but these: they are what its shapes and its calls have been made for.
Each is computed anew at every call, from the inputs that it depends on, and the program is another one
where it has changed. No value that depends on the parameters is read so: it would change with every step. Nor is one
that depends on a draw, or on a write to the caller's tensors, which the computing anew would do; writes to what the
loss has made are done again, and counted: as many as TorchDynamo saw.
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


class _NotAgainError(Exception):
    """A value that a computing anew would not give: it is drawn, or written to in a way that is not seen here."""


class _NoDraws(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: OpOverload, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _NotAgainError
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
        with torch_private.modes_disabled(), _NoDraws(), torch.no_grad():
            self.value = _Counting(self._run, {env[n].name: _version(n) for n in env}).run(*examples)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value for these inputs."""
        with torch_private.modes_disabled():
            return self.of(*inputs)

    def of(self, *inputs: Tensor) -> Tensor:
        """The same under the transforms and modes around."""
        with torch.no_grad():
            found: Tensor = self._run(*inputs)
            return found


class _Counting(fx.Interpreter):
    """A graph run with as many writes to each tensor as there were."""

    def __init__(self, module: fx.GraphModule, versions: dict[str, int]):
        super().__init__(module, garbage_collect_values=False)
        self._versions = versions

    def output(self, *args: Any) -> Any:
        found = {n.name: value for n, value in self.env.items() if isinstance(value, Tensor)}
        # A tensor of the caller's has been written to before, or has not; nothing writes to it here.
        if any(found[name]._version != n for name, n in self._versions.items() if n and name in found):
            raise _NotAgainError
        return super().output(*args)


def read_of(node: fx.Node, then: Callable[[Tensor], Tensor] = torch.clone) -> Read | None:
    """A read of the value of a node; None where it depends on a parameter, a draw or a write to an argument."""
    for n in _ancestors(node):
        if n.op == "placeholder":
            example = torch_private.example_of(n)
            if not isinstance(example, Tensor) or example.requires_grad or _version(n):
                return None
        elif n.op not in ("call_function", "call_method") or (_is_undefined(n) and not _version(n)):
            return None
    try:
        return Read(node, then)
    except _NotAgainError:
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


def is_place(node: fx.Node) -> bool:
    """Whether a call of ``getitem`` takes one entry along a dimension, whose place a tensor holds."""
    value, index = node.args
    place, rest = _first_place(index)
    if not isinstance(place, fx.Node) or any(isinstance(each, fx.Node) for each in rest):
        return False
    tensors = value, place
    x, i = (each.meta.get("example_value") if isinstance(each, fx.Node) else None for each in tensors)
    whole = isinstance(i, Tensor) and i.ndim == 0 and i.dtype in (torch.int64, torch.int32, torch.int16, torch.int8)
    return isinstance(x, Tensor) and whole


def at(x: Tensor, index: Any) -> Tensor:
    """Such an entry: its place is not read."""
    place, rest = _first_place(index)
    dim = len(index) - len(rest) - 1 if isinstance(index, tuple) else 0
    place = torch.where(place < 0, place + x.shape[dim], place).to(x.device)
    taken = x.index_select(dim, place.reshape(1).long()).squeeze(dim)
    return taken[(slice(None),) * dim + rest] if rest else taken


def _first_place(index: Any) -> tuple[Any, tuple[Any, ...]]:
    """What comes first in an index that does not take all, and what is after it."""
    parts = index if isinstance(index, tuple) else (index,)
    whole = next((i for i, each in enumerate(parts) if each != slice(None)), 0)
    return parts[whole], tuple(parts[whole + 1 :])


def _ancestors(node: fx.Node) -> list[fx.Node]:
    """What a node is computed from, and itself, in order: with what has written to any of it."""
    wanted, waiting = {node}, [node]
    while waiting:
        for n in waiting.pop().all_input_nodes:
            if n not in wanted:
                wanted.add(n)
                waiting.append(n)
        if not waiting:
            written = {_memory(n) for n in wanted if _version(n)}
            found = [n for n in node.graph.nodes if n not in wanted and _writes(n)]
            waiting = [n for n in found if any(_memory(i) in written for i in n.all_input_nodes)]
            wanted |= set(waiting)
    return [n for n in node.graph.nodes if n in wanted]


def _writes(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target))
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or node.target in _WRITES or bool({"out", "inplace"} & node.kwargs.keys())


def _version(node: fx.Node) -> int:
    """How often the value of a node has been written to, here or through a view."""
    value = node.meta.get("example_value")
    return max((each._version for each in tree.leaves(value) if isinstance(each, Tensor)), default=0)


def _memory(node: fx.Node) -> Any:
    value = node.meta.get("example_value")
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def _is_undefined(node: fx.Node) -> bool:
    return "empty" in getattr(node.target, "__name__", str(node.target))


_WRITES = {operator.setitem, operator.iadd, operator.isub, operator.imul, operator.iand, operator.ior, operator.ixor}


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
