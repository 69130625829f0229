"""Operators that are another one with the same operands.

A loss's program is written with the other one after tracing, and so is what PyTorch's derivatives of an operator call.
A view depends on the strides of its input, which are not part of a signature; a reshape does not. A lazy conjugate is a
bit that a view carries, and that not every operator can take.
"""

import torch

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import LAWS

aten = torch.ops.aten

RENAMED: dict[Operator, Operator] = {
    aten._conj.default: aten._conj_physical.default,
    aten.conj_physical.default: aten._conj_physical.default,
    aten._neg_view.default: aten.neg.default,
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten._reshape_alias.default: aten.reshape.default,
    aten.add.Scalar: aten.add.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Scalar: aten.div.Tensor,
}


def _renamed(target: Operator) -> Law:
    def call_has_another_name(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        return b.call(target, *args, **kwargs)

    return call_has_another_name


for _target, _other in RENAMED.items():
    LAWS.law(_target)(_renamed(_other))
