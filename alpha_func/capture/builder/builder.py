"""A program under construction: every call goes through the laws before it becomes a node.

A ``Builder`` writes an fx.Graph of ATen calls. A call that a law rewrites never becomes a node, and a call that is
there already is not written twice (hash-consing, Ershov 1958), so a program comes out simplified in one pass, in order.
Each node carries a fake tensor (shape, dtype, strides) in ``meta["val"]``.

    Value = Node | number       an operand of a program: a tensor, or a Python number that broadcasts
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from alpha_func.torch_private import FakeTensor, FakeTensorMode

Law = Callable[["Builder", tuple[Any, ...], dict[str, Any]], Any]
Laws = Mapping[Any, Sequence[Law]]

aten = torch.ops.aten

_IMPURE = {torch.Tag.nondeterministic_seeded}


class Builder:
    """Writes a program, a call at a time.

    Args:
        laws: for each operator, its laws: ``law(builder, args, kwargs)`` returns what the call equals, or None.
        mode: the fake mode of the operands.
        apart: operators each call of which is a node of its own.
    """

    def __init__(self, laws: Laws, mode: FakeTensorMode, apart: Collection[Any] = ()):
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self.mode = mode
        self._laws, self._apart = laws, apart
        self.once: set[Any] = set()
        self.traces: dict[Any, fx.GraphModule] = {}
        self._known: dict[Any, Any] = {}

    def placeholder(self, name: str, val: Any) -> fx.Node:
        """A further input of the program."""
        node = self.graph.placeholder(name)
        node.meta["val"] = val
        return node

    def constant(self, name: str, tensor: Tensor) -> fx.Node:
        """A tensor that the program holds."""
        key = ("constant", id(tensor))
        if key not in self._known:
            self.constants[name] = tensor
            node = self.graph.get_attr(name)
            node.meta["val"] = self.as_fake(tensor)
            self._known[key] = node
        return self._known[key]

    def as_fake(self, val: Any) -> Any:
        """A tensor as a fake one of this program; anything else as it is."""
        return self.mode.from_tensor(val) if isinstance(val, Tensor) and not isinstance(val, FakeTensor) else val

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """What the call equals: an older node, a number, or a new node."""
        for law in self._laws.get(target, ()):
            found = law(self, args, kwargs)
            if found is not None:
                return found
        return self.write(target, *args, **kwargs)

    def write(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """The node of a call, without laws."""
        if isinstance(target, OpOverload) and target._schema.is_mutable:
            raise NotImplementedError(f"{target} writes in place: a program of pure operators was expected")
        key = (
            None if is_impure(target) or target in self._apart else _key((target, args, tuple(sorted(kwargs.items()))))
        )
        if key is not None and key in self._known:
            return self._known[key]
        val = self.fake_result(target, args, kwargs)
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = val
        if key is not None:
            self._known[key] = node
        return node

    def inline(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """The outputs of a program, its calls written here."""
        return replay(module, inputs, self)

    def fake_result(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Shape, dtype, strides and device of what a call returns."""
        vals, fake_kwargs = pytree.tree_map(lambda a: a.meta["val"] if isinstance(a, fx.Node) else a, (args, kwargs))
        with self.mode:
            return target(*vals, **fake_kwargs)


def plus(b: Builder, *terms: Any) -> Any:
    """The sum of the terms; None is zero."""
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else b.call(aten.add.Tensor, total, term)
    return total


def times(b: Builder, *factors: Any) -> Any:
    """The product of the factors; None is zero."""
    if any(factor is None for factor in factors):
        return None
    product = factors[0]
    for factor in factors[1:]:
        product = b.call(aten.mul.Tensor, product, factor)
    return product


def replay(
    module: fx.GraphModule, inputs: Sequence[Any], builder: Builder, visit: Callable[[fx.Node, Any], None] | None = None
) -> Any:
    """Write the calls of a program into a builder, its placeholders bound to ``inputs``; the values of its outputs."""
    env: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            env[node] = builder.constant(str(node.target), getattr(module, str(node.target)))
        elif node.op == "output":
            return fx.map_arg(node.args[0], env.__getitem__)
        else:
            args, kwargs = bound(node, env)
            env[node] = builder.call(node.target, *args, **kwargs)
        if visit is not None:
            visit(node, env[node])
    raise ValueError("the program has no output")


def bound(node: fx.Node, env: Mapping[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a node, its operands looked up."""
    return fx.map_arg(node.args, env.__getitem__), fx.map_arg(node.kwargs, env.__getitem__)


def is_impure(target: Any) -> bool:
    """Whether two calls with the same operands may differ: they draw random numbers."""
    return isinstance(target, OpOverload) and not _IMPURE.isdisjoint(target.tags)


def fake_mode(module: fx.GraphModule) -> FakeTensorMode:
    """The fake mode in which a program was traced."""
    for node in module.graph.nodes:
        if isinstance(node.meta.get("val"), FakeTensor):
            return node.meta["val"].fake_mode
    return FakeTensorMode()


def finished(builder: Builder, outputs: Any) -> fx.GraphModule:
    """The program that a builder wrote, without what its outputs do not need.

    Random draws stay even where nothing needs them: the draws that come after depend on them.
    """
    builder.graph.output(outputs)
    builder.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_impure(node.target))
    return fx.GraphModule(builder.constants, builder.graph)


def _key(value: Any) -> Any:
    """A hashable form in which 1, 1.0 and True differ."""
    if isinstance(value, (tuple, list)):
        return ("tuple" if isinstance(value, tuple) else "list", *map(_key, value))
    if isinstance(value, (bool, int, float, complex)):
        return type(value), repr(value)
    return value
