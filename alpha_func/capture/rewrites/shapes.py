"""Aliases, views and permutations: what moves no number."""

import torch
from torch import fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.operands import broadcast, converted, is_call, is_inexact, places, shape_of
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import LAWS

aten = torch.ops.aten


@LAWS.law(
    *(aten.alias.default, aten.lift_fresh.default, aten.lift_fresh_copy.default),
    *(aten.resolve_conj.default, aten.resolve_neg.default),
)
def aliases_are_their_operand(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """alias(x) = x."""
    return args[0]


@LAWS.law(aten.clone.default)
def clones_in_place_are_their_operand(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """clone(x) = x, where x lies in memory as the clone would: a program changes nothing in place."""
    val = args[0].meta["val"]
    wanted = kwargs.get("memory_format")
    if wanted in (None, torch.preserve_format):
        return args[0]
    return args[0] if val.is_contiguous(memory_format=wanted) else None


@LAWS.law(aten._to_copy.default)
def conversions_to_the_same_are_their_operand(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """to(x, dtype of x) = x."""
    val = args[0].meta["val"]
    same = {"dtype": val.dtype, "device": val.device, "layout": val.layout, "pin_memory": False, "non_blocking": False}
    settled = all(value is None or same.get(name, ...) == value for name, value in kwargs.items())
    return args[0] if settled else None


@LAWS.law(aten.copy.default)
def copies_are_their_source(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """copy(x, y) = y in the shape and dtype of x, whose values it never has; autograd has no derivative of it."""
    x, y = args[:2]
    return broadcast(b, converted(b, y, x.meta["val"].dtype), shape_of(x)) if isinstance(x, fx.Node) else None


@LAWS.law(aten.t.default)
def t_is_a_permutation(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """t(x) = permute(x, (1, 0))."""
    return b.call(aten.permute.default, args[0], list(reversed(range(len(shape_of(args[0]))))))


@LAWS.law(aten.transpose.int)
def transposes_are_permutations(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """transpose(x, i, j) = permute(x, ...)."""
    x, i, j = args
    dims = list(range(len(shape_of(x))))
    if dims:  # 0-d is its own transpose
        dims[i], dims[j] = dims[j], dims[i]
    return b.call(aten.permute.default, x, dims)


@LAWS.law(aten.permute.default)
def permutations_compose(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """permute(permute(x, p), q) = permute(x, p∘q), and the identity is left out."""
    x, dims = args
    dims = [dim % len(dims) for dim in dims]
    if is_call(x, aten.permute.default):
        x, dims = x.args[0], [x.args[1][dim] for dim in dims]
    if dims == sorted(dims):
        return x
    return b.write(aten.permute.default, x, dims)


def _reshape_of(target: Operator) -> Law:
    def squeezes_are_reshapes(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """squeeze(x) = reshape(x), unsqueeze(x) = reshape(x)."""
        return b.call(aten.reshape.default, args[0], list(b.fake_result(target, args, kwargs).shape))

    return squeezes_are_reshapes


for _target in (aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims):
    LAWS.law(_target)(_reshape_of(_target))


@LAWS.law(aten.reshape.default)
def reshapes_compose(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """reshape(reshape(x)) = reshape(x), and the reshape to the same shape is left out."""
    x, shape = args[:2]
    if -1 in shape:
        known = 1
        for size in shape:
            known *= size if size != -1 else 1
        shape = [x.meta["val"].numel() // known if size == -1 else size for size in shape]
    while is_call(x, aten.reshape.default):
        x = x.args[0]
    return x if shape_of(x) == tuple(shape) else b.write(aten.reshape.default, x, list(shape))


@LAWS.law(aten.expand.default)
def expands_compose(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """expand(expand(x)) = expand(x), and the expand to the same shape is left out."""
    x, wanted = args[0], args[1]
    own = (1,) * (len(wanted) - len(shape_of(x))) + shape_of(x)
    shape = [size if new == -1 else new for size, new in zip(own, wanted, strict=True)]
    if is_call(x, aten.expand.default):
        x = x.args[0]
    return x if shape_of(x) == tuple(shape) else b.write(aten.expand.default, x, shape)


@LAWS.law(aten.sum.dim_IntList)
def sums_over_nothing_are_their_operand(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """Σ over dims of size 1 is a reshape, of integers as int64."""
    x, dims, *keepdim = args
    shape = shape_of(x)
    over = places(dims, len(shape))
    if kwargs or any(shape[dim] != 1 for dim in over):
        return None
    kept = [size for dim, size in enumerate(shape) if (keepdim and keepdim[0]) or dim not in over]
    return b.call(aten.reshape.default, x if is_inexact(x) else converted(b, x, torch.int64), kept)
