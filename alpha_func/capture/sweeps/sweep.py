"""Sweeps over a lowered program: its values forward, tangents forward, adjoints backward.

    v = f(x)     a call of the lowered program; x its operands
    t, s         the first and the second Taylor coefficient of a value along the line, None where zero
    λ            the adjoint of a value: the derivative of the output with respect to it, None where zero

All are kept by the node of the *lowered* program, for two of its nodes may have one value and different tangents
(``detach``). A node of several outputs has a list of each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import getitem
from typing import NamedTuple

from torch import fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture import derivatives  # noqa: F401  fills the table of rules
from alpha_func.capture.builder.active import is_constant
from alpha_func.capture.builder.builder import Builder, fake_mode, plus, replay
from alpha_func.capture.builder.operands import filled_like, is_inexact
from alpha_func.capture.builder.values import Value, leaves, mapped
from alpha_func.capture.derivatives.derivative import first, pullback, second
from alpha_func.capture.derivatives.rule import Call, Tangents
from alpha_func.capture.rewrites import LAWS

Coefficients = dict[fx.Node, Value]


class Values(NamedTuple):
    """The calls of a lowered program, in order, each with its operands and its value in the program being written."""

    inputs: list[fx.Node]
    calls: dict[fx.Node, Call]
    result: fx.Node
    output: Value


def started(lowered: fx.GraphModule) -> tuple[Builder, list[fx.Node]]:
    """A builder, and in it the inputs of the program."""
    b = Builder(LAWS, fake_mode(lowered))
    b.traces = lowered.meta.setdefault("traces", b.traces)  # for all that is written of one program
    return b, b.inputs_of(lowered)


def forward(
    b: Builder,
    lowered: fx.GraphModule,
    inputs: list[fx.Node],
    follow: Callable[[fx.Node, Call], None] | None = None,
) -> Values:
    """Write the lowered program itself; ``follow`` writes what is to come right after each call."""
    calls: dict[fx.Node, Call] = {}

    def visit(node: fx.Node, args: Args, kwargs: Kwargs, value: Value) -> None:
        calls[node] = Call(node.target, args, kwargs, value)
        if follow is not None:
            follow(node, calls[node])

    (output,) = leaves(replay(lowered, inputs, b, visit))
    (result,) = leaves(lowered.graph.output_node().args[0])
    return Values(lowered.graph.find_nodes(op="placeholder"), calls, result, output)


def extend(b: Builder, node: fx.Node, call: Call, one: Coefficients, two: Coefficients | None = None) -> None:
    """Extend the first coefficients, and the second where wanted, from the operands of a call to its value.

    t_v = Df[t], s_v = Df[s] + D²f[t, t].
    """
    if node.target is getitem:
        source, i = _source(node)
        for coefficients in (one, two):
            if coefficients is not None and source in coefficients:
                coefficients[node] = coefficients[source][i]
        return
    t = operands(node, one)
    if all_zero(t):
        return
    one[node] = _differentiable(call, first(b, call, t))
    if two is not None:
        two[node] = _differentiable(call, _sum(b, first(b, call, operands(node, two)), second(b, call, t)))


def second_terms(
    b: Builder, node: fx.Node, call: Call, one: Coefficients, adjoints: Coefficients
) -> Iterator[tuple[Value, Value]]:
    """(λ_v, D²f_v[t, t]) for each output of a call where neither is zero."""
    λ, t = adjoints.get(node), operands(node, one)
    if node.target is getitem or λ is None or all_zero(t):
        return
    bends = second(b, call, t)
    pairs = zip(λ, bends, strict=True) if isinstance(λ, list) else [(λ, bends)]
    yield from ((adjoint, bend) for adjoint, bend in pairs if adjoint is not None and bend is not None)


def backward(b: Builder, values: Values, parameters: int, *, of_inputs: bool = True) -> Coefficients:
    """The adjoints of every value that depends on the parameters, and of the parameters themselves if ``of_inputs``."""
    start = {values.result: filled_like(b, values.output, 1)}
    return adjoints(b, values.calls, values.inputs[:parameters], start, of_inputs=of_inputs)


def adjoints(
    b: Builder,
    calls: dict[fx.Node, Call],
    inputs: Sequence[fx.Node],
    start: Mapping[fx.Node, Value],
    *,
    of_inputs: bool = True,
) -> Coefficients:
    """The adjoints of every value that depends on the inputs, and of these if ``of_inputs``, from those that ``start``
    gives.

    λ_x = Σ Dfᵀ[λ_v] over the calls v = f(x, ...).
    """
    active = _active(calls, inputs)
    found: Coefficients = dict(start)
    for node, call in reversed(calls.items()):
        λ = found.get(node)
        if λ is None or node not in active:
            continue
        if node.target is getitem:
            source, i = _source(node)
            outputs = found.setdefault(source, [None] * len(calls[source].value.meta["val"]))
            outputs[i] = plus(b, outputs[i], λ)
            continue
        wanted = mapped(
            lambda a: isinstance(a, fx.Node) and a in active and (of_inputs or a.op != "placeholder"), node.args
        )
        if not any(leaves(wanted)):
            continue
        parts = pullback(b, call, wanted, λ)
        for operand, adjoint in zip(leaves(node.args), parts, strict=True):
            if adjoint is not None:
                found[operand] = plus(b, found.get(operand), adjoint)
    return found


def operands(node: fx.Node, coefficients: Coefficients) -> Value:
    """The coefficients of the operands of a node, nested as its arguments."""
    return mapped(lambda a: coefficients.get(a) if isinstance(a, fx.Node) else None, node.args)


def _source(node: fx.Node) -> tuple[fx.Node, int]:
    source, i = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(i, int)
    return source, i


def _active(calls: dict[fx.Node, Call], inputs: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes that a change of the inputs may change smoothly."""
    active = set(inputs)
    for node, call in calls.items():
        if is_constant(node.target):
            continue
        if not active.isdisjoint(node.all_input_nodes) and is_inexact(call.value):
            active.add(node)
    return active


def all_zero(tangents: Tangents) -> bool:
    """Whether no operand has a coefficient."""
    return all(leaf is None for leaf in leaves(tangents))


def _sum(b: Builder, x: Value, y: Value) -> Value:
    if isinstance(x, (list, tuple)):
        return [plus(b, *pair) for pair in zip(x, y, strict=True)]
    return plus(b, x, y)


def _differentiable(call: Call, tangent: Value) -> Value:
    """The tangents of the outputs that can have one."""
    val = call.value.meta["val"]
    if isinstance(val, (list, tuple)):
        return [t if is_inexact(v) else None for t, v in zip(tangent, val, strict=True)]
    return tangent if is_inexact(val) else None
