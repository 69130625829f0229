"""Value, slope and Gauss-Newton curvature along a direction by one forward sweep.

    z = f(θ)     z₁ = J d     z₂ left out     h(z + z₁α) to second order: value, tᵀ∇ψ, tᵀ∇²ψ t with t = z₁

The sweep of ``taylor``, of which the module needs the first coefficients alone: a linear layer costs three products,
v₀ = x₀W and v₁ = x₁W + x₀D, and there is no backward pass. The second begin at the outputs, with none.
"""

from torch import fx

from alpha_func.capture.builder.builder import finished
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.derivatives.rule import Call
from alpha_func.capture.sweeps.sweep import Coefficients, all_zero, extend, forward, started
from alpha_func.errors import CaptureError

_BESIDES = (
    "the criterion depends on the parameters other than through the outputs of the module, so the two "
    "cannot be separated: {} is a function of both"
)


def gauss_newton_program(lowered: fx.GraphModule, parameters: int) -> fx.GraphModule:
    """The program (*inputs, *directions) -> (value, slope, curvature).

    Args:
        lowered: a program of primitive operators (*inputs) -> value, whose last input is a number that is added to
            the outputs of the module and shows where they are; it is taken to be zero.
        parameters: how many of its inputs, the first ones, are parameters; there are as many directions.

    Raises:
        CaptureError: parameters enter the criterion other than through the outputs.
    """
    placeholders = lowered.graph.find_nodes(op="placeholder")
    outputs = set(placeholders[-1].users)
    after = _after(lowered, outputs)
    b, inputs = started(lowered)
    directions = [b.placeholder(f"direction_{i}", node.meta["val"]) for i, node in enumerate(inputs[:parameters])]
    one: Coefficients = dict(zip(placeholders, directions, strict=False))
    two: Coefficients = {}

    def follow(node: fx.Node, call: Call) -> None:
        extend(b, node, call, one, two if node in after else None)
        moving = [x for x in node.all_input_nodes if not all_zero(one.get(x))]
        if node in after and any(x not in after and x not in outputs for x in moving):
            raise CaptureError(_BESIDES.format(node.target))

    values = forward(b, lowered, [*inputs[:-1], filled_like(b, inputs[-1], 0)], follow)
    zero = filled_like(b, values.output, 0)
    slope, curvature = (zero if part.get(values.result) is None else part[values.result] for part in (one, two))
    return finished(b, (values.output, slope, curvature))


def _after(lowered: fx.GraphModule, outputs: set[fx.Node]) -> set[fx.Node]:
    after: set[fx.Node] = set()
    for node in lowered.graph.nodes:
        if any(x in after or x in outputs for x in node.all_input_nodes):
            after.add(node)
    return after
