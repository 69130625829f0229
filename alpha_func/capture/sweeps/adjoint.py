"""Value, gradient, slope and curvature along a direction made of the gradient, with shared work.

    v = f_v(x)   a call of the program                   λ_v   its adjoint, from the gradient's own backward sweep
    t            the tangents of its operands along d

    dᵀHd = Σ_v ⟨λ_v, D²f_v[t, t]⟩      dᵀg = the tangent of the output

over the operators that are not linear in their active operands. The adjoints and the values are the gradient's, so a
linear layer x·W costs three products more than its gradient: t_v = t_x·W + x·D and 2·t_x·D. Six in all, and a product
of two activations six. Griewank and Walther, Evaluating Derivatives (2008), chapter 5 (second-order adjoints).
"""

from operator import getitem
from typing import NamedTuple

import torch
from torch import fx

from alpha_func.capture.builder.active import ancestors
from alpha_func.capture.builder.builder import Builder, finished, is_impure, plus, times
from alpha_func.capture.builder.operands import conjugate, filled_like, real
from alpha_func.capture.builder.values import Value
from alpha_func.capture.sweeps.sweep import Coefficients, Values, backward, extend, forward, second_terms, started
from alpha_func.torch_private import LazyGraphModule

aten = torch.ops.aten


class TwoPrograms(NamedTuple):
    """The gradient, and the quadratic along a direction that is made of it in between.

    gradient: (*inputs) -> (value, *grads, *saved).        line: (*saved, *directions) -> (slope, curvature).
    """

    gradient: fx.GraphModule
    line: fx.GraphModule
    saved: int


def steepest_descent_program(lowered: fx.GraphModule, parameters: int) -> fx.GraphModule:
    """The program (*inputs) -> (value, slope, curvature, *grads, *directions) along d = −g.

    Args:
        lowered: a program of primitive operators (*inputs) -> value, a scalar, with fake tensors in ``meta["val"]``.
        parameters: how many of its inputs, the first ones, are parameters.
    """
    b, values, adjoints, grads = _gradient(lowered, parameters)
    # Along +g: the slope is the opposite, the curvature the same, and no operator waits for −g.
    slope, curvature = _line(b, values, adjoints, grads)
    directions = [b.call(aten.mul.Tensor, g, -1) for g in grads]
    return finished(b, (values.output, times(b, slope, -1), curvature, *grads, *directions))


def adjoint_program(lowered: fx.GraphModule, parameters: int) -> fx.GraphModule:
    """``adjoint_programs`` in one: (*inputs, *directions) -> (slope, curvature).

    Args:
        lowered: as for ``steepest_descent_program``.
        parameters: as for ``steepest_descent_program``.
    """
    b, values, adjoints, grads = _gradient(lowered, parameters)
    directions = [b.placeholder(f"direction_{i}", g.meta["val"]) for i, g in enumerate(grads)]
    return finished(b, _line(b, values, adjoints, directions))


def adjoint_programs(lowered: fx.GraphModule, parameters: int) -> TwoPrograms:
    """The gradient program and the program of the line, for a direction that is any function of the gradient.

    Args:
        lowered: as for ``steepest_descent_program``.
        parameters: as for ``steepest_descent_program``.
    """
    b, values, adjoints, grads = _gradient(lowered, parameters)
    directions = [b.placeholder(f"direction_{i}", g.meta["val"]) for i, g in enumerate(grads)]
    slope, curvature = _line(b, values, adjoints, directions)
    return _parted(b, [values.output, *grads], directions, [slope, curvature])


def _gradient(lowered: fx.GraphModule, parameters: int) -> tuple[Builder, Values, Coefficients, list[fx.Node]]:
    b, inputs = started(lowered)
    values = forward(b, lowered, inputs)
    adjoints = backward(b, values, parameters)
    grads = [
        adjoints[node] if node in adjoints else filled_like(b, inputs[i], 0)
        for i, node in enumerate(values.inputs[:parameters])
    ]
    return b, values, adjoints, grads


def _line(b: Builder, values: Values, adjoints: Coefficients, directions: list[fx.Node]) -> tuple[Value, Value]:
    """(slope, curvature)."""
    along: Coefficients = dict(zip(values.inputs, directions, strict=False))
    drops_nan = any(call.target is aten.nan_to_num.default for call in values.calls.values())  # what came before: λ = 0
    curvature = None
    for node, call in values.calls.items():  # a tangent is gone when its last call is done
        extend(b, node, call, along)
        for adjoint, bend in second_terms(b, node, call, along, adjoints):
            if drops_nan:
                bend = b.call(aten.where.self, b.call(aten.eq.Scalar, adjoint, 0), filled_like(b, bend, 0, ()), bend)
            curvature = plus(b, curvature, inner(b, adjoint, bend))
    zero = filled_like(b, values.output, 0)
    slope = along.get(values.result)
    return zero if slope is None else slope, zero if curvature is None else curvature


def inner(b: Builder, x: Value, y: Value) -> Value:
    """⟨x, y⟩ = Re Σ x̄·y; None is zero."""
    if x is None or y is None:
        return None
    return real(b, b.call(aten.sum.default, times(b, conjugate(b, x), y)))


def _parted(b: Builder, first: list[Value], directions: list[fx.Node], second: list[Value]) -> TwoPrograms:
    """The program cut in two: what ``first`` needs, and the rest, which is given what it shares."""
    nodes = list(b.graph.nodes)
    needed = ancestors([*first, *(node for node in nodes if is_impure(node.target))])
    before = [n for n in nodes if n in needed or (n.op in ("placeholder", "get_attr") and n not in directions)]
    inside = set(before)
    before += [n for n in nodes if n.target is getitem and n.args[0] in inside and n not in inside]
    inside = set(before)
    wanted = ancestors(second)
    after = [n for n in nodes if n in wanted and n not in inside and n not in directions]
    read = {operand for node in after for operand in node.all_input_nodes} | set(second)
    saved = [n for n in before if n in read]
    return TwoPrograms(
        _copied(b, before, [], [*first, *saved]), _copied(b, after, [*saved, *directions], second), len(saved)
    )


def _copied(b: Builder, nodes: list[fx.Node], inputs: list[fx.Node], outputs: list[Value]) -> fx.GraphModule:
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for i, node in enumerate(inputs):
        env[node] = graph.placeholder(f"{node.name}_{i}")
        env[node].meta["val"] = node.meta["val"]
    for node in nodes:
        env[node] = graph.node_copy(node, env.__getitem__)
    graph.output(tuple(env[node] for node in outputs))
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_impure(node.target))
    return LazyGraphModule(b.constants, graph)
