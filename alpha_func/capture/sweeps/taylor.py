"""Value, slope and curvature of a loss along a direction by one forward sweep.

    x(α) = x₀ + x₁·α + ½·x₂·α²     every value of the program along the line θ + αd, to second order
    v = f(x):     v₀ = f(x₀)     v₁ = Df[x₁]     v₂ = Df[x₂] + D²f[x₁, x₁]

The parameters have x₁ = d and no x₂, the other inputs neither; zeros stay symbolic. A linear layer x·W costs five
products, v₀ = x₀W, v₁ = x₁W + x₀D, v₂ = x₂W + 2·x₁D (two where x is an input), a product of two activations six. There
is no backward pass. The v₀, v₁ and v₂ of a call are written together, so what a layer makes is gone after the next one.
Griewank and Walther, Evaluating Derivatives (2008), chapter 13.

Beyond the second order, v₃, v₄, ... are derivatives of what the rules of the first wrote (``along``): a linear layer
costs 2k + 1 products, xⱼW for every j up to k and xⱼD for every j below, and a product of two activations as many as
there are pairs of orders with a sum of at most k.
"""

from torch import fx

from alpha_func.capture.builder.builder import finished
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.builder.values import Value
from alpha_func.capture.derivatives.rule import Call
from alpha_func.capture.sweeps.along import Along
from alpha_func.capture.sweeps.sweep import Coefficients, extend, forward, started


def taylor_program(lowered: fx.GraphModule, parameters: int) -> fx.GraphModule:
    """The program (*inputs, *directions) -> (value, slope, curvature).

    Args:
        lowered: a program of primitive operators (*inputs) -> value, a scalar, with fake tensors in ``meta["val"]``.
        parameters: how many of its inputs, the first ones, are parameters; there are as many directions.
    """
    b, inputs = started(lowered)
    directions = [b.placeholder(f"direction_{i}", node.meta["val"]) for i, node in enumerate(inputs[:parameters])]
    one: Coefficients = dict(zip(lowered.graph.find_nodes(op="placeholder"), directions, strict=False))
    two: Coefficients = {}
    values = forward(b, lowered, inputs, lambda node, call: extend(b, node, call, one, two))
    zero = filled_like(b, values.output, 0)
    slope, curvature = (zero if part.get(values.result) is None else part[values.result] for part in (one, two))
    return finished(b, (values.output, slope, curvature))


def higher_program(lowered: fx.GraphModule, parameters: int, order: int) -> fx.GraphModule:
    """The program (*inputs, *directions) -> (h, h′, ..., h⁽ᵏ⁾), the value and its derivatives along the line.

    Args:
        lowered: as for ``taylor_program``, with nothing whole in it: rules of second order are not used.
        parameters: as for ``taylor_program``.
        order: k.
    """
    b, inputs = started(lowered)
    directions = [b.placeholder(f"direction_{i}", node.meta["val"]) for i, node in enumerate(inputs[:parameters])]
    along = Along(b, dict(zip(inputs, directions, strict=False)))

    def derivatives(value: Value) -> list[Value]:
        found = [value]
        for _ in range(order):
            found.append(along(found[-1]))
        return found

    def follow(_: fx.Node, call: Call) -> None:
        derivatives(call.value)

    values = forward(b, lowered, inputs, follow)
    zero = filled_like(b, values.output, 0)
    return finished(b, tuple(zero if part is None else part for part in derivatives(values.output)))
