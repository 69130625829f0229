"""Operators that a program keeps whole, and the same in primitives.

Layer and batch normalisation, without their weight and bias, stay whole: the rules of the sweeps for them are
PyTorch's own kernels, forward and backward. But PyTorch's derivatives of these kernels are wrong when they are
differentiated again, so what torch.func or autograd is to differentiate is the program *in primitives*.
"""

import math
from operator import getitem
from typing import NamedTuple

import torch
from torch import fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law, plus, times
from alpha_func.capture.builder.operands import shape_of
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import IN_PRIMITIVES

aten = torch.ops.aten
LAYER, BATCH = aten.native_layer_norm.default, aten.native_batch_norm.default
LAYER_BACK, BATCH_BACK = aten.native_layer_norm_backward.default, aten.native_batch_norm_backward.default


class Groups(NamedTuple):
    """What is normalised together: the dimensions of a group, its size, and the shape that the statistics have."""

    dims: list[int]
    size: int
    kept: list[int]

    def mean(self, b: Builder, t: Value) -> Value:
        """The mean over each group, which broadcasts against t."""
        return b.call(aten.mean.dim, t, self.dims, True)


def groups_of(target: Operator, x: fx.Node, args: Args) -> Groups:
    """The groups of x in a call with the operands (x, shape, ...) for layers, (x, ...) for batches."""
    shape = shape_of(x)
    if target in (LAYER, LAYER_BACK):
        dims = list(range(len(shape) - len(args[1]), len(shape)))
    else:
        dims = [i for i in range(len(shape)) if i != 1]
    kept = [1 if i in dims else size for i, size in enumerate(shape)]
    return Groups(dims, math.prod(shape[i] for i in dims), kept)


def _forward(target: Operator) -> Law:
    def normalisation_in_primitives(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """y, m and r."""
        x = args[0]
        groups = groups_of(target, x, args)
        mean = groups.mean(b, x)
        centred = plus(b, x, times(b, mean, -1))
        rstd = b.call(aten.rsqrt.default, plus(b, groups.mean(b, times(b, centred, centred)), args[-1]))
        shape = groups.kept if target is LAYER else [shape_of(x)[1]]
        return [times(b, centred, rstd), *(b.call(aten.reshape.default, part, shape) for part in (mean, rstd))]

    return normalisation_in_primitives


def _backward(target: Operator) -> Law:
    def derivative_in_primitives(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """r·(t − mean(t) − y·mean(y·t)), of the x, m and r that are given."""
        t, x = args[:2]
        groups = groups_of(target, x, args[1:])
        m, r = (
            b.call(aten.reshape.default, part, groups.kept)
            for part in (args[3:5] if target is LAYER_BACK else args[5:7])
        )
        y = times(b, plus(b, x, times(b, m, -1)), r)
        along = plus(b, t, times(b, groups.mean(b, t), -1), times(b, y, groups.mean(b, times(b, y, t)), -1))
        return [times(b, along, r), None, None]

    return derivative_in_primitives


@IN_PRIMITIVES.law(getitem, signs=())
def parts_of_what_is_in_primitives(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """getitem([x, y, ...], i)."""
    return args[0][args[1]] if isinstance(args[0], list) else None


for _target in (LAYER, BATCH):
    IN_PRIMITIVES.law(_target)(_forward(_target))
for _target in (LAYER_BACK, BATCH_BACK):
    IN_PRIMITIVES.law(_target)(_backward(_target))
