"""Operators that are linear in operands, or linear on each side of a kink: they have no second derivative."""

import math
from operator import getitem

import torch
from torch.nn import functional as F

from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.operands import filled_like
from alpha_func.capture.builder.values import Value
from alpha_func.capture.derivatives.registrars import constant, linear_in, piecewise_linear
from alpha_func.capture.derivatives.rule import Call, Tangents, of_reals

aten = torch.ops.aten


def _complex(x: torch.Tensor) -> torch.Tensor:
    return torch.complex(x, x * x)


def _numbered(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part * i for i, part in enumerate(parts, 1)])


# Steps, constant on pieces of the real line.
constant(
    {
        aten.ceil.default: lambda x: x.ceil() * x,
        aten.floor.default: lambda x: x.floor() * x,
        aten.round.default: lambda x: x.round() * x,
        aten.sgn.default: lambda x: x.sgn() * x,
        aten.sign.default: lambda x: x.sign() * x,
    },
    where=of_reals,
)

linear_in(
    (0,),
    {
        aten.reshape.default: lambda x: x.reshape(-1, 1).mT.reshape(-1),
        aten.permute.default: lambda x: x.permute(tuple(range(x.ndim))[::-1]),
        aten.t.default: lambda x: x.reshape(1, -1).t(),
        aten.transpose.int: lambda x: x.reshape(1, -1).transpose(0, 1),
        aten.expand.default: lambda x: x.expand(2, *x.shape),
        aten.unsqueeze.default: lambda x: x.unsqueeze(0),
        aten.squeeze.default: lambda x: x.squeeze(),
        aten.squeeze.dim: lambda x: x.unsqueeze(0).squeeze(0),
        aten.squeeze.dims: lambda x: x.unsqueeze(0).squeeze((0,)),
        aten.slice.Tensor: lambda x: x.reshape(-1)[::2],
        aten.select.int: lambda x: x.reshape(-1)[0],
        aten.diagonal.default: lambda x: x.reshape(1, -1).diagonal(),
        aten.flip.default: lambda x: x.reshape(-1).flip(0),
        aten.roll.default: lambda x: x.roll(1),
        aten.repeat.default: lambda x: x.repeat((2,) * max(x.ndim, 1)),
        aten.index.Tensor: lambda x: x.reshape(-1)[torch.tensor([0, 0])],
        aten.gather.default: lambda x: x.reshape(-1).gather(0, torch.tensor([0, 0])),
        aten.index_select.default: lambda x: x.reshape(-1).index_select(0, torch.tensor([0, 0])),
        aten.embedding.default: lambda x: F.embedding(torch.tensor([0, 0]), x.reshape(1, -1)),
        aten.tril.default: lambda x: x.reshape(1, -1).tril(1),
        aten.triu.default: lambda x: x.reshape(1, -1).triu(1),
        aten.clone.default: lambda x: x.clone(),
        aten.alias.default: lambda x: aten.alias(x),
        aten._to_copy.default: lambda x: x.to(torch.complex128).real,
        aten.neg.default: lambda x: -x,
        aten.sum.default: lambda x: x.sum(),
        aten.sum.dim_IntList: lambda x: x.sum(-1),
        aten.mean.default: lambda x: x.mean() * x,
        aten.mean.dim: lambda x: x.mean(-1, keepdim=True) * x,
        aten.cumsum.default: lambda x: x.cumsum(0),
        aten.avg_pool2d.default: lambda x: F.avg_pool2d(x.reshape(1, 1, -1).repeat(1, 1, 2), (1, 2)),
        aten._adaptive_avg_pool2d.default: lambda x: F.adaptive_avg_pool2d(x.reshape(1, 1, -1), (1, 2)),
        aten._conj_physical.default: lambda x: _complex(x).conj().imag,
        aten.view_as_real.default: lambda x: torch.view_as_real(_complex(x)),
        aten._fft_c2c.default: lambda x: torch.fft.fft(_complex(x).reshape(-1)).real,
        aten._fft_c2r.default: lambda x: torch.fft.irfft(_complex(x).reshape(-1), n=2 * x.numel()),
        aten._fft_r2c.default: lambda x: torch.fft.rfft(x.reshape(-1)).real,
        aten.split.Tensor: lambda x: _numbered(x.reshape(-1).split(2)),
        aten.split_with_sizes.default: lambda x: _numbered(x.reshape(-1).split([1, x.numel() - 1])),
        aten.split_with_sizes_copy.default: lambda x: _numbered(
            aten.split_with_sizes_copy(x.reshape(-1), [1, x.numel() - 1])
        ),
        aten.unbind.int: lambda x: _numbered(x.reshape(2, -1).unbind(0) if x.numel() % 2 == 0 else [x.reshape(-1)]),
        aten.cat.default: lambda x: torch.cat([x.reshape(-1), torch.ones(1, dtype=x.dtype)]),
        aten.stack.default: lambda x: torch.stack([x, x * 2]),
    },
)
linear_in(
    (0, 1),
    {
        aten.add.Tensor: lambda x, y: x + y,
        aten.sub.Tensor: lambda x, y: torch.sub(x, y, alpha=3),
        aten.complex.default: lambda x, y: torch.view_as_real(torch.complex(x, torch.as_tensor(y, dtype=x.dtype))),
    },
)
linear_in(
    (0, 2),
    {
        aten.constant_pad_nd.default: lambda x: F.pad(x.reshape(-1), (1, -1), value=1.5),
        aten.masked_fill.Scalar: lambda x: x.masked_fill(x > 0.1, 2.0),
        aten.masked_fill.Tensor: lambda x: x.masked_fill(x > 0.1, x.sum()),
    },
)
linear_in((1, 2), {aten.where.self: lambda x, y: torch.where(x > 0.3, x * y, y)})


def _relu(b: Builder, call: Call, t: Tangents) -> Value:
    """A tangent passes where the value is positive."""
    return b.call(aten.threshold_backward.default, t[0], call.value, 0)


piecewise_linear(_relu, {aten.relu.default: F.relu})


def _nan_to_num(b: Builder, call: Call, t: Tangents) -> Value:
    """A tangent passes where the operand is a number."""
    finite = b.call(aten.lt.Scalar, b.call(aten.abs.default, call.args[0]), math.inf)
    return b.call(aten.where.self, finite, t[0], filled_like(b, t[0], 0, ()))


piecewise_linear(_nan_to_num, {aten.nan_to_num.default: torch.nan_to_num}, where=of_reals)


def _max_pool(b: Builder, call: Call, t: Tangents) -> Value:
    """The tangent of each maximum, picked by its index."""
    indices = b.call(getitem, call.value, 1)
    shape = indices.meta["val"].shape
    planes = b.call(aten.reshape.default, t[0], [*shape[:-2], -1])
    picked = b.call(aten.gather.default, planes, -1, b.call(aten.reshape.default, indices, [*shape[:-2], -1]))
    return [b.call(aten.reshape.default, picked, list(shape)), None]


piecewise_linear(
    _max_pool,
    {aten.max_pool2d_with_indices.default: lambda x: F.max_pool2d(x.reshape(1, 1, -1).repeat(1, 1, 2), (1, 2))},
)
