"""The angle of a point at the origin: a constant to every derivative, as PyTorch's gradient has it.

PyTorch's forward mode of ``atan2`` is nan there, and so is the gradient of its gradient.
"""

import math

import torch

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.builder.values import Value
from alpha_func.capture.rewrites.table import DIFFERENTIABLE

aten = torch.ops.aten


@DIFFERENTIABLE.law(aten.atan2.default)
def the_origin_has_one_angle(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """atan2(y, x) = atan2(±0, ±1) where x and y are ±0."""
    if not all(x.meta["val"].is_floating_point() for x in args):
        return None
    y, x = args
    at_zero = [b.call(aten.eq.Scalar, part, 0) for part in args]
    origin = b.call(aten.logical_and.default, *at_zero)

    def held(part: Value, constant: Value) -> Value:
        return b.call(aten.where.self, origin, constant, part)

    def signed(part: Value, size: float) -> Value:
        sides = [filled_like(b, part, number, ()) for number in (-size, size)]
        return b.call(aten.where.self, b.call(aten.signbit.default, part), *sides)

    nothing = b.call(aten.reciprocal.default, signed(y, math.inf))  # −0 and 0 are one number to a builder
    return b.write(aten.atan2.default, held(y, nothing), held(x, signed(x, 1.0)))
