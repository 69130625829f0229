"""Powers whose exponent moves: xʸ of a positive x by its logarithm, y·ln x.

PyTorch takes the derivative of xʸ by x for a constant where y is 0, whatever y does: ∂²xʸ/∂x∂y, 1/x there, is lost.
"""

import torch

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.active import ancestors
from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.builder.values import Value
from alpha_func.capture.rewrites.table import DIFFERENTIABLE

aten = torch.ops.aten


@DIFFERENTIABLE.law(aten.pow.Tensor_Tensor)
def powers_of_positive_numbers_are_by_their_logarithm(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """xʸ = c·exp(y·ln x − l), c = xʸ and l = y·ln x constants: the value is PyTorch's, to the bit."""
    x, y = args
    made_of_inputs = any(node.op == "placeholder" for node in ancestors([y]))
    if not (made_of_inputs and all(part.meta["val"].is_floating_point() for part in args)):
        return None
    positive = b.call(aten.gt.Scalar, x, 0)

    def held(part: Value) -> Value:
        return b.call(aten.where.self, positive, b.call(aten.detach.default, part), part)

    logarithm = b.call(aten.log.default, b.call(aten.where.self, positive, x, filled_like(b, x, 1, ())))
    moves = b.call(aten.mul.Tensor, y, logarithm)
    change = b.call(aten.sub.Tensor, moves, b.call(aten.detach.default, moves))
    return b.call(aten.mul.Tensor, b.write(aten.pow.Tensor_Tensor, held(x), held(y)), b.call(aten.exp.default, change))
