"""Which operators have been verified to second order, under which strategy.

The table is ``operators.csv`` beside this module, written by ``python -m benchmarks.verify_operators``; its rows are of
three kinds. An *operator* is one of PyTorch's database as it is called; a *derivative* is a formula of autograd, named
as its backward node; a *primitive* is an operator of captured programs. A verdict is that of the worst smooth sample:

    exact   value, slope and curvature agree with extrapolated differences
    raises  PyTorch has no such derivative
    refused capture refuses every sample, with a reason
    nan     nan at a singular sample, exact elsewhere
    wrong   a number that is not the derivative; crash: it ends the process
    rough   no smooth sample
"""

import csv
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.autograd.function import once_differentiable

from alpha_func import tree
from alpha_func.tree import Tree

TABLE = Path(__file__).with_name("operators.csv")
STRATEGY_NAMES = ("forward_over_reverse", "reverse_over_reverse", "reverse_over_forward", "forward_over_forward")
COLUMNS = ("kind", "name", "samples", *STRATEGY_NAMES, *(f"captured_{name}" for name in STRATEGY_NAMES))

# Linear or constant by definition, so never in a sample of their own.
_STRUCTURAL = {"aten.lift_fresh_copy.default", "aten.alias.default"}

ONCE = "[once_differentiable]"  # after the name of an autograd.Function whose backward is marked so
_ONCE_CODE = once_differentiable(lambda ctx: None).__code__

_TRUSTED = ("exact", "nan")  # a nan at a singular sample is no number that could be taken for the derivative

# Their outputs depend on no value of their inputs, or are declared not to.
_CONSTANT = {"detach", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"}
_CONSTANT |= {"new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "bernoulli"}


@cache
def table(kind: str) -> dict[str, dict[str, str]]:
    """Name to verdict by strategy, for one kind of row.

    >>> table("primitive")["aten.mm.default"]["reverse_over_reverse"]
    'exact'
    """
    with TABLE.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file) if row["kind"] == kind}


def unverified(graph: fx.Graph, params: int, strategy: str = "reverse_over_reverse") -> list[str]:
    """The operators of ``graph`` that a derivative in the first ``params`` inputs passes through, and that have not
    been verified under a strategy; under ``forward_over_forward``, those whose nested forward derivatives have not.
    """
    known = table("primitive")
    names = dict.fromkeys(operator_name(node) for node in active_nodes(graph, params))
    return [n for n in names if n not in _STRUCTURAL and known.get(n, {}).get(strategy) not in _TRUSTED]


def operator_name(node: fx.Node) -> str:
    """``aten.mm.default``."""
    return str(node.target)


def active_operators(program: Any) -> set[str]:
    """The names of the operators of a program that a derivative passes through."""
    return {operator_name(node) for node in active_nodes(program.graph.graph, program.params)}


def active_nodes(graph: fx.Graph, params: int) -> list[fx.Node]:
    """The nodes that a derivative in the first ``params`` inputs passes through."""
    nodes = list(graph.nodes)
    active = set(nodes[:params])
    passed = []
    for node in nodes[params:]:
        if node.op != "call_function" or active.isdisjoint(node.all_input_nodes):
            continue
        if is_constant(node.target) or not _has_derivative(node.meta.get("val")):
            continue
        active.add(node)
        if isinstance(node.target, torch._ops.OpOverload):
            passed.append(node)
    return passed


def derivative_nodes(
    loss: Callable[..., Tensor], params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> set[str]:
    """The derivative formulas between the loss and its parameters, as autograd names them: one forward pass."""
    with torch.enable_grad():
        value = loss(tree.map(_requiring_grad, params), *args, **kwargs)
    if not isinstance(value, Tensor):
        return set()  # no loss, which the transform says
    roots = [value.grad_fn]  # each level of grad has a graph of its own
    while is_functorch_wrapped_tensor(value):
        value = get_unwrapped(value)
        roots.append(value.grad_fn)
    names: set[str] = set()
    waiting, seen = roots, set(roots)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        # Batch normalisation in eval mode is another formula under the same name.
        mode = "[training]" if getattr(node, "_saved_training", False) else ""
        names.add(node.name().removeprefix("torch::autograd::") + (ONCE if _is_once(node) else mode))
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return names - {"AccumulateGrad"}


def _is_once(node: Any) -> bool:
    """Whether a node is an autograd.Function with a ``once_differentiable`` backward, under a transform too."""
    backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
    for cell in getattr(backward, "__closure__", None) or ():  # torch.func makes a Function that calls the user's
        inner = getattr(cell.cell_contents, "backward", None)
        backward = inner if isinstance(cell.cell_contents, type) and inner is not None else backward
    return getattr(backward, "__code__", None) is _ONCE_CODE


def _requiring_grad(leaf: Tensor) -> Tensor:
    if peek_interpreter_stack() is None:
        return (leaf.clone() if leaf.is_inference() else leaf.detach()).requires_grad_()
    # Under vmap or grad, autograd's own graph lies beneath the transform's: it starts at a plain tensor.
    return leaf + torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device, requires_grad=True)


def operator_of(name: str) -> str:
    """The operator of a derivative formula, ``MseLossBackward0``, or of a primitive, ``aten.mm.default``.

    >>> operator_of("NativeLayerNormBackward0"), operator_of("aten.mm.default")
    ('native_layer_norm', 'aten.mm')
    """
    if name.startswith("aten."):
        return ".".join(name.split(".")[:2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.sub(r"(Generated)?Backward\d*(\[\w+\])?$", "", name)).lower()


def _has_derivative(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_derivative(part) for part in value)
    return not isinstance(value, torch.Tensor) or value.is_floating_point() or value.is_complex()


def is_constant(target: Any) -> bool:
    """Whether no derivative passes through an operator, whatever its operands."""
    return isinstance(target, torch._ops.OpOverload) and target.overloadpacket.__name__ in _CONSTANT
