"""Operators that read memory as it lies, of operands that lie as they did when they were traced: contiguous.

The strides of an input do not belong to a signature. Nearly every operator gives the same numbers for all; of these few
the operand is laid out first, which costs nothing where it lies so already.
"""

import torch
from torch import fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.operands import is_call
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import DIFFERENTIABLE, LAWS

aten = torch.ops.aten


def _laid_out(target: Operator) -> Law:
    def what_is_read_as_it_lies_is_contiguous(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """f(x) = f(contiguous(x)), where x is contiguous as it is written here, or f asks for it."""
        x, *rest = args
        if not isinstance(x, fx.Node) or is_call(x, aten.contiguous.default):
            return None
        if target is not aten.view_as_complex.default and not x.meta["val"].is_contiguous():
            return None
        return b.write(target, b.write(aten.contiguous.default, x), *rest, **kwargs)

    return what_is_read_as_it_lies_is_contiguous


for _target in (
    *(aten.as_strided.default, aten.as_strided_copy.default, aten.as_strided_scatter.default),
    *(aten.view_as_complex.default, aten.view.dtype),
):
    for _table in (LAWS, DIFFERENTIABLE):
        _table.law(_target)(_laid_out(_target))
