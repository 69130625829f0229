"""A linear function of a symbolic zero is one."""

from typing import Any

import torch
from torch import fx

from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.operands import filled, is_zero
from alpha_func.capture.rewrites.table import law

aten = torch.ops.aten


def _zero_of_result(b: Builder, target: Any, args: Any, kwargs: Any) -> Any:
    vals = [arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in args]
    with b.mode:
        val = target(*vals, **kwargs)
    return filled(b, val.shape, 0, val.dtype, val.device)


def _of_zero_is_zero(target: Any, operands: tuple[int, ...]) -> Law:
    def images_of_zero_are_zero(b: Builder, args: Any, kwargs: Any) -> Any:
        """f(0) = 0, f linear in that operand."""
        if any(is_zero(args[i]) for i in operands if i < len(args)):
            return _zero_of_result(b, target, args, kwargs)
        return None

    return images_of_zero_are_zero


ZERO_AT_ZERO: dict[Any, tuple[int, ...]] = {
    aten.sum.default: (0,),
    aten.sum.dim_IntList: (0,),
    aten.mean.default: (0,),
    aten.mean.dim: (0,),
    aten.slice.Tensor: (0,),
    aten.select.int: (0,),
    aten.clone.default: (0,),
    aten._to_copy.default: (0,),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.gather.default: (0,),
    aten.index.Tensor: (0,),
    aten.embedding.default: (0,),
    aten.threshold_backward.default: (0,),
    aten.sgn.default: (0,),
}
for _target, _operands in ZERO_AT_ZERO.items():
    law(_target)(_of_zero_is_zero(_target, _operands))
