"""A linear function of a symbolic zero is one."""

import torch

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.operands import filled, is_zero
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import LAWS

aten = torch.ops.aten


def _of_zero_is_zero(target: Operator, operands: tuple[int, ...]) -> Law:
    def images_of_zero_are_zero(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """f(0) = 0, f linear in that operand."""
        if not any(is_zero(args[i]) for i in operands if i < len(args)):
            return None
        val = b.fake_result(target, args, kwargs)
        return filled(b, val.shape, 0, val.dtype, val.device)

    return images_of_zero_are_zero


ZERO_AT_ZERO: dict[Operator, tuple[int, ...]] = {
    aten.sum.default: (0,),
    aten.sum.dim_IntList: (0,),
    aten.mean.default: (0,),
    aten.mean.dim: (0,),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.embedding.default: (0,),
    aten.threshold_backward.default: (0,),
}
for _target, _operands in ZERO_AT_ZERO.items():
    LAWS.law(_target)(_of_zero_is_zero(_target, _operands))
