"""Operators that are constant, or linear in their operands: v₁ = f(t), and no second derivative."""

import math
from operator import getitem
from typing import Any

import torch
from torch.utils import _pytree as pytree

from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.derivatives.derivative import Call, no_tangent, rules

aten = torch.ops.aten

# Nothing passes.

rules(
    no_tangent,
    no_tangent,
    aten.bernoulli.default,
    aten.bernoulli.p,
    aten.detach.default,
    aten.empty_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.ones_like.default,
    aten.rand_like.default,
    aten.randn_like.default,
    aten.zeros_like.default,
)
# Steps: constant on pieces of the real line, so of no complex number.
rules(
    no_tangent,
    no_tangent,
    aten.ceil.default,
    aten.floor.default,
    aten.round.default,
    aten.sgn.default,
    aten.sign.default,
    real=True,
)


# Linear in the first operand.


def _others(t: Any) -> bool:
    """Whether an operand after the first has a tangent."""
    return any(leaf is not None for leaf in pytree.tree_leaves(t[1:]))


def _in_first(b: Builder, call: Call, t: Any) -> Any:
    """f(x) linear in x: v₁ = f(t)."""
    return NotImplemented if _others(t) else b.call(call.target, t[0], *call.args[1:], **call.kwargs)


_LINEAR = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.t.default,
    aten.transpose.int,
    aten.expand.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.slice.Tensor,
    aten.select.int,
    aten._conj_physical.default,
    aten._fft_c2c.default,
    aten._fft_c2r.default,
    aten._fft_r2c.default,
    aten.view_as_complex.default,
    aten.view_as_real.default,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.mean.default,
    aten.mean.dim,
    aten.neg.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten._to_copy.default,
    aten.flip.default,
    aten.roll.default,
    aten.repeat.default,
    aten.index.Tensor,
    aten.gather.default,
    aten.index_select.default,
    aten.embedding.default,
    aten.avg_pool2d.default,
    aten._adaptive_avg_pool2d.default,
    aten.diagonal.default,
    aten.tril.default,
    aten.triu.default,
    aten.cumsum.default,
    aten.mul.Scalar,
    aten.div.Scalar,
)


def _linear_outputs(b: Builder, call: Call, t: Any) -> Any:
    """f(x) linear in x, of several outputs."""
    if _others(t):
        return NotImplemented
    node = b.call(call.target, t[0], *call.args[1:], **call.kwargs)
    return [b.call(getitem, node, i) for i in range(len(node.meta["val"]))]


rules(_in_first, no_tangent, *_LINEAR)
rules(
    _linear_outputs,
    no_tangent,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
    aten.split_with_sizes_copy.default,
)


def _nll(b: Builder, call: Call, t: Any) -> Any:
    """The mean of picked entries is linear; the total weight is constant."""
    return [b.call(getitem, b.call(call.target, t[0], *call.args[1:]), 0), None]


rules(_nll, no_tangent, aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)


def _pad(b: Builder, call: Call, t: Any) -> Any:
    """What is filled in is constant: v₁ = pad(t, 0)."""
    return b.call(call.target, t[0], call.args[1])


rules(_pad, no_tangent, aten.constant_pad_nd.default)


def _masked_fill(b: Builder, call: Call, t: Any) -> Any:
    """Where it is filled nothing passes."""
    return NotImplemented if t[2] is not None else b.call(aten.masked_fill.Scalar, t[0], call.args[1], 0)


rules(_masked_fill, no_tangent, aten.masked_fill.Scalar, aten.masked_fill.Tensor)


# Linear in all operands together.


def _add(b: Builder, call: Call, t: Any) -> Any:
    """D(x + a·y) = t_x + a·t_y."""
    sign = -1 if call.target in (aten.sub.Tensor, aten.sub.Scalar) else 1
    y = times(b, t[1], sign * call.kwargs.get("alpha", 1)) if len(t) > 1 else None
    return plus(b, t[0], y)


rules(_add, no_tangent, aten.add.Tensor, aten.sub.Tensor, aten.add.Scalar, aten.sub.Scalar)


def _complex(b: Builder, call: Call, t: Any) -> Any:
    """D(x + i·y) = t_x + i·t_y."""
    parts = [filled_like(b, x, 0) if tx is None else tx for x, tx in zip(call.args, t, strict=True)]
    return b.call(aten.complex.default, *parts)


rules(_complex, no_tangent, aten.complex.default)


def _cat(b: Builder, call: Call, t: Any) -> Any:
    """D cat(x, y) = cat(t_x, t_y)."""
    parts = [filled_like(b, x, 0) if tx is None else tx for x, tx in zip(call.args[0], t[0], strict=True)]
    return b.call(call.target, parts, *call.args[1:])


rules(_cat, no_tangent, aten.cat.default, aten.stack.default)


def _where(b: Builder, call: Call, t: Any) -> Any:
    """D where(c, x, y) = where(c, t_x, t_y)."""
    branches = [filled_like(b, x, 0, ()) if tx is None else tx for x, tx in zip(call.args[1:], t[1:], strict=True)]
    return b.call(aten.where.self, call.args[0], *branches)


rules(_where, no_tangent, aten.where.self)


# Linear on each side of a kink.


def _relu(b: Builder, call: Call, t: Any) -> Any:
    """A tangent passes where the value is positive."""
    return b.call(aten.threshold_backward.default, t[0], call.value, 0)


rules(_relu, no_tangent, aten.relu.default)


def _nan_to_num(b: Builder, call: Call, t: Any) -> Any:
    """A tangent passes where the operand is a number."""
    finite = b.call(aten.lt.Scalar, b.call(aten.abs.default, call.args[0]), math.inf)
    return b.call(aten.where.self, finite, t[0], filled_like(b, t[0], 0, ()))


rules(_nan_to_num, no_tangent, aten.nan_to_num.default, real=True)


def _max_pool(b: Builder, call: Call, t: Any) -> Any:
    """The tangent of each maximum, picked by its index."""
    indices = b.call(getitem, call.value, 1)
    shape = indices.meta["val"].shape
    planes = b.call(aten.reshape.default, t[0], [*shape[:-2], -1])
    picked = b.call(aten.gather.default, planes, -1, b.call(aten.reshape.default, indices, [*shape[:-2], -1]))
    return [b.call(aten.reshape.default, picked, list(shape)), None]


rules(_max_pool, no_tangent, aten.max_pool2d_with_indices.default)
