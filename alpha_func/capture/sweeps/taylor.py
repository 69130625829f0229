"""Value, slope and curvature of a loss along a direction by one forward sweep.

    x(α) = x₀ + x₁·α + ½·x₂·α²     every value of the program along the line θ + αd, to second order
    v = f(x):     v₀ = f(x₀)     v₁ = Df[x₁]     v₂ = Df[x₂] + D²f[x₁, x₁]

The parameters have x₁ = d and no x₂, the other inputs neither; zeros stay symbolic. A linear layer x·W costs five
products, v₀ = x₀W, v₁ = x₁W + x₀D, v₂ = x₂W + 2·x₁D (two where x is an input), a product of two activations six. There
is no backward pass, and a value can be freed as soon as the next is there. Griewank and Walther, Evaluating
Derivatives (2008), chapter 13.
"""

from torch import fx

from alpha_func.capture.builder.builder import finished, is_impure
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.sweeps.sweep import Coefficients, forward, propagate, started


def taylor_program(lowered: fx.GraphModule, parameters: int) -> fx.GraphModule:
    """The program (*inputs, *directions) -> (value, slope, curvature).

    Args:
        lowered: a program of primitive operators (*inputs) -> value, a scalar, with fake tensors in ``meta["val"]``.
        parameters: how many of its inputs, the first ones, are parameters; there are as many directions.
    """
    b, inputs = started(lowered)
    directions = [b.placeholder(f"direction_{i}", node.meta["val"]) for i, node in enumerate(inputs[:parameters])]
    values = forward(b, lowered, inputs)
    one: Coefficients = dict(zip(values.inputs, directions, strict=False))
    two: Coefficients = {}
    propagate(b, values, one, two)
    zero = filled_like(b, values.output, 0)
    slope, curvature = (zero if part.get(values.result) is None else part[values.result] for part in (one, two))
    return _layer_by_layer(finished(b, (values.output, slope, curvature)))


def _layer_by_layer(program: fx.GraphModule) -> fx.GraphModule:
    """The program with every call where the curvature first needs it: what a layer makes is gone after the next one.

    As written, the values of all layers come before the first tangent, and wait for it. Random draws keep their order.
    """
    nodes = list(program.graph.nodes)
    if any(is_impure(node.target) for node in nodes):
        return program
    output = nodes[-1]
    placed = {node for node in nodes if node.op == "placeholder"}
    pending = [*output.args[0]]  # the curvature last, so first
    while pending:
        node = pending[-1]
        missing = [x for x in node.all_input_nodes if x not in placed] if node not in placed else []
        if missing:
            pending += missing[::-1]
        else:
            pending.pop()
            if node not in placed:
                placed.add(node)
                output.prepend(node)
    program.recompile()
    return program
