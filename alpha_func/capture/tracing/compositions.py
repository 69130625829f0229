"""Compositions in primitives that PyTorch lacks, or has with an in-place write, a value check or no second derivative.

Each has the arguments and outputs of the operator it stands for; what it differs in is in its docstring.
"""

import cmath

import torch
from torch import Tensor

from alpha_func.calls import Function
from alpha_func.errors import CaptureError
from alpha_func.torch_private import get_decompositions

aten = torch.ops.aten


def native_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation, weight and bias apart. PyTorch's own composition updates the running statistics in place,
    after tracing has taken every mutation out; they are never an output of a loss, so here they are left alone."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    if training and x.dtype in _WHOLE:
        if weight is bias is running_mean is running_var is None:
            return NotImplemented  # kept whole
        out, mean, rstd = aten.native_batch_norm.default(x, None, None, None, None, True, 0.0, eps)
        return _affine(out, weight, bias, shape), mean, rstd
    if training:
        var, mean = torch.var_mean(x, [dim for dim in range(x.ndim) if dim != 1], correction=0)
    else:
        assert running_mean is not None
        assert running_var is not None
        var, mean = running_var, running_mean
    rstd = torch.rsqrt(var + eps)
    out = _affine((x - mean.reshape(shape)) * rstd.reshape(shape), weight, bias, shape)
    empty = x.new_empty(0)
    return (out, mean, rstd) if training else (out, empty, empty)


def native_batch_norm_of_itself(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Without running statistics."""
    return aten.native_batch_norm.default(x, weight, bias, None, None, training, momentum, eps)


def native_layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalisation, weight and bias apart."""
    if x.dtype not in _WHOLE:
        return _layer_norm_in_primitives(x, shape, weight, bias, eps)
    if weight is bias is None:
        return NotImplemented  # kept whole
    out, mean, rstd = aten.native_layer_norm.default(x, shape, None, None, eps)
    return _affine(out, weight, bias, shape), mean, rstd


def native_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, channels: int, size: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Group normalisation is layer normalisation of the groups as rows, weight and bias apart."""
    rows = x.reshape(n, groups, -1)
    out, mean, rstd = aten.native_layer_norm.default(rows, list(rows.shape[2:]), None, None, eps)
    shape = [1, -1] + [1] * (x.ndim - 2)
    return _affine(out.reshape(x.shape), weight, bias, shape), mean.reshape(n, groups), rstd.reshape(n, groups)


# Kept whole in float32 and float64; half precision has statistics of another dtype.
_WHOLE = (torch.float32, torch.float64)
_layer_norm_in_primitives = get_decompositions([aten.native_layer_norm])[aten.native_layer_norm.default]


def _affine(out: Tensor, weight: Tensor | None, bias: Tensor | None, shape: list[int]) -> Tensor:
    if weight is not None:
        out = out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)


def embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """A look-up. PyTorch's gradient holds the padding row constant; forward mode does not, so ``detach`` says it."""
    if scale_grad_by_freq:
        raise CaptureError(
            "embedding with scale_grad_by_freq=True: its gradient is not the derivative of the loss; "
            "leave the option out"
        )
    if padding_idx < 0:
        return NotImplemented  # a primitive already
    rows = aten.embedding.default(weight, indices)
    return torch.where((indices == padding_idx).unsqueeze(-1), rows.detach(), rows)


def copy(onto: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
    """The out-of-place form of ``onto.copy_(x)``, which has no derivative of its own."""
    return _laid_out_as(onto, x.to(onto.dtype).expand(onto.shape))


def _laid_out_as(onto: Tensor, x: Tensor) -> Tensor:
    """x with its entries in memory in the order of those of onto, whose views are views of it from now on."""
    strides = onto.stride()
    order = sorted(range(x.ndim), key=lambda dim: -strides[dim])
    if not onto.permute(order).is_contiguous():
        return x  # a view with gaps: its memory is that of what it is a view of
    return x.permute(order).contiguous().permute([order.index(dim) for dim in range(x.ndim)])


def index_put(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """``x[mask] = values`` as a choice. PyTorch's pullback looks the mask's places up: as many as its values say."""
    mask = indices[0]
    if len(indices) > 1 or mask is None or mask.dtype != torch.bool:
        return NotImplemented  # a primitive already
    rest = x.shape[mask.ndim :]
    chosen = mask.reshape(mask.shape + (1,) * len(rest))
    if values.ndim > len(rest):
        places, count = mask.reshape(-1), values.shape[0]
        rank = places.long().cumsum(0) - 1
        values = values if count else values.new_zeros(1, *values.shape[1:])  # none to look up: for no place
        others = (places.sum() != count) * len(values)  # of rows than places: out of range, an error as PyTorch's is
        rows = torch.zeros_like(rank) if count == 1 else torch.where(places, rank, 0) + others
        values = values[rows].reshape(x.shape)
    put = torch.where(chosen, values, 0 if accumulate else x)
    return x + put if accumulate else put


def unsafe_index_put(x: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """``index_put`` of indices that are known to be within."""
    return aten.index_put.default(x, indices, values, accumulate)


def binary_cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None = None, reduction: int = 1) -> Tensor:
    """−t·log x − (1 − t)·log(1 − x), the logarithms at least −100. PyTorch's composition has the derivative 0/0 where a
    sigmoid has rounded to 0 or 1; here nothing takes a logarithm of 0."""
    wide = torch.promote_types(x.dtype, torch.float32)
    p, t = x.to(wide), target.to(wide)
    zero, one = p == 0, p == 1
    log_p = torch.where(zero, -100.0, torch.where(zero, 1.0, p).log().clamp(min=-100))
    log_rest = torch.where(one, -100.0, torch.log1p(-torch.where(one, 0.0, p)).clamp(min=-100))
    loss = (t - 1) * log_rest - t * log_p
    if weight is not None:
        loss = loss * weight
    return (loss, loss.mean(), loss.sum())[reduction].to(x.dtype)


def pow_of_a_number(base: complex, x: Tensor) -> Tensor:
    """baseˣ as the power of a tensor by a tensor; of a complex base as exp(x·log base)."""
    if isinstance(base, complex) and base != 0:
        return torch.exp(x * cmath.log(base))
    return torch.pow(torch.scalar_tensor(base, dtype=torch.result_type(x, base), device=x.device), x)


def ldexp(x: Tensor, n: Tensor) -> Tensor:
    """x·2ⁿ. PyTorch's own gradient takes the power of whole numbers, 0 of a negative one."""
    dtype = torch.promote_types(torch.result_type(x, n), torch.float32)
    return x * torch.pow(torch.scalar_tensor(2, dtype=dtype, device=x.device), n)


def view_as_complex(x: Tensor) -> Tensor:
    """x_0 + i·x_1. A view asks for strides, and those of an input may be others at the next call."""
    return torch.complex(x.select(-1, 0), x.select(-1, 1))


def _with_part(operator: Function) -> Function:
    """A part of x replaced, real and imaginary parts apart: of complex numbers PyTorch has no derivative of it, and
    under vmap takes no part of another dtype."""

    def replaced(x: Tensor, part: Tensor, *place: int | None, **options: int | None) -> Tensor:
        if not x.is_complex():  # a primitive already, of one dtype
            return NotImplemented if part.dtype == x.dtype else operator(x, part.to(x.dtype), *place, **options)
        return torch.complex(
            *(operator(a, b, *place, **options) for a, b in ((x.real, part.real), (x.imag, part.imag)))
        )

    return replaced


def log_sigmoid_backward(grad: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    """PyTorch's own goes by way of ``buffer``, an output of the forward that has no derivative."""
    return grad * torch.sigmoid(-x)


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """m + log(eˣ⁻ᵐ + eʸ⁻ᵐ), m the greater of the two and a constant to derivatives. PyTorch's own double backward
    is nan where both are −inf."""
    if x.is_complex() or y.is_complex():
        return _logaddexp_of_complex(x, y)
    m = torch.maximum(x.detach(), y.detach())
    finite = m.isfinite()
    m_, x_, y_ = (torch.where(finite, z, 0) for z in (m, x, y))
    return torch.where(finite, m_ + ((x_ - m_).exp() + (y_ - m_).exp()).log(), m)


def _logaddexp_of_complex(x: Tensor, y: Tensor) -> Tensor:
    """The same, m the one of the greater real part; PyTorch's principal value."""
    dtype = torch.promote_types(x.dtype, y.dtype)  # to a real operand of ``where``, PyTorch's gradient is complex
    x, y = x.to(dtype), y.to(dtype)
    greater = torch.where(x.real >= y.real, x, y)
    return greater + torch.log1p(torch.exp(torch.where(x.real >= y.real, y, x) - greater))


def polar(size: Tensor, angle: Tensor) -> Tensor:
    """size·(cos angle + i·sin angle). PyTorch's own gradient takes the size for |size|."""
    return torch.complex(size * angle.cos(), size * angle.sin())


def multilabel_margin_loss(x: Tensor, target: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    """Σ over labels t and other classes j of max(0, 1 − x_t + x_j), over classes. PyTorch's own composition counts the
    places after the first −1 as labels too: another value (torch 2.13)."""
    rows, labels = (t.reshape(-1, t.shape[-1] if t.ndim else 1) for t in (x, target))
    given = (labels < 0).long().cumsum(-1) == 0
    chosen = torch.where(given, labels, 0)
    classes = torch.arange(rows.shape[1], device=x.device)
    is_target = ((chosen[:, :, None] == classes) & given[:, :, None]).any(1)
    terms = (1 - rows.gather(1, chosen)[:, :, None] + rows[:, None, :]).clamp(min=0)
    counted = given[:, :, None] & ~is_target[:, None, :]
    losses = torch.where(counted, terms, 0).sum((1, 2)) / rows.shape[1]
    reduced = (losses.reshape(x.shape[:-1]), losses.mean(), losses.sum())[reduction]
    return reduced, is_target.to(x.dtype).reshape(target.shape)


def cdist(x: Tensor, y: Tensor, p: float, compute_mode: int | None) -> Tensor:
    """Distances between rows. PyTorch's has no second derivative; this takes the memory of all differences."""
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, dim=-1)


def euclidean_dist(x: Tensor, y: Tensor) -> Tensor:
    """As ``cdist``, without the cancellation of PyTorch's matrix product."""
    return cdist(x, y, 2.0, None)


def pdist(x: Tensor, p: float = 2.0) -> Tensor:
    """Distances between the pairs of rows."""
    i, j = torch.triu_indices(x.shape[0], x.shape[0], 1, device=x.device)
    return torch.linalg.vector_norm(x[i] - x[j], p, dim=-1)


def normal(mean: Tensor | float, std: Tensor | float = 1.0, generator: None = None) -> Tensor:
    """mean + std·z. To PyTorch a draw does not depend on mean and deviation; with its seed fixed, it does."""
    shape = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
        *(t.shape for t in (mean, std) if isinstance(t, Tensor))
    )
    like = mean if isinstance(mean, Tensor) else std
    assert isinstance(like, Tensor)
    return torch.randn(shape, dtype=like.dtype, device=like.device) * std + mean


def triangular_solve(
    b: Tensor, a: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Tensor, Tensor]:
    """As ``linalg.solve_triangular``: PyTorch's forward mode of the older name is wrong."""
    matrix = a.mT if transpose else a
    x = torch.linalg.solve_triangular(matrix, b, upper=upper != transpose, unitriangular=unitriangular)
    return x, a.expand(*x.shape[:-2], *a.shape[-2:]).clone()


BY_OPERATOR: dict[Function, Function] = {
    aten._cdist_forward.default: cdist,
    aten._euclidean_dist.default: euclidean_dist,
    aten._native_batch_norm_legit.default: native_batch_norm,
    aten._native_batch_norm_legit.no_stats: native_batch_norm_of_itself,
    aten._pdist_forward.default: pdist,
    aten._unsafe_index_put.default: unsafe_index_put,
    aten.binary_cross_entropy.default: binary_cross_entropy,
    aten.copy.default: copy,
    aten.embedding.default: embedding,
    aten.index_put.default: index_put,
    aten.ldexp.Tensor: ldexp,
    aten.log_sigmoid_backward.default: log_sigmoid_backward,
    aten.native_batch_norm.default: native_batch_norm,
    aten.native_group_norm.default: native_group_norm,
    aten.native_layer_norm.default: native_layer_norm,
    aten.multilabel_margin_loss_forward.default: multilabel_margin_loss,
    aten.logaddexp.default: logaddexp,
    aten.select_scatter.default: _with_part(aten.select_scatter.default),
    aten.slice_scatter.default: _with_part(aten.slice_scatter.default),
    aten.triangular_solve.default: triangular_solve,
    aten.normal.Tensor_Tensor: normal,
    aten.normal.Tensor_float: normal,
    aten.normal.float_Tensor: normal,
    aten.polar.default: polar,
    aten.pow.Scalar: pow_of_a_number,
    aten.view_as_complex.default: view_as_complex,
}
