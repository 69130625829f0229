"""Functions of torch in other operators, before they get into a recording.

They look at values, or would become operators of their own.
"""

import math
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from alpha_func.calls import Function
from alpha_func.capture.tracing.groups import grouped_mm
from alpha_func.capture.tracing.hooks import REGISTERED
from alpha_func.capture.tracing.packed import TRACED
from alpha_func.torch_private import checkpoint_generator

aten = torch.ops.aten


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """``F.gaussian_nll_loss`` without its check that no variance is negative, which a program cannot make."""
    if isinstance(var, float):
        var = torch.full_like(input, var)
    if var.shape != input.shape and input.shape[:-1] == var.shape:
        var = var.unsqueeze(-1)
    var = torch.where(var.detach() < eps, var + (eps - var).detach(), var)  # its clamp is outside autograd
    loss = (var.log() + (input - target) ** 2 / var) / 2
    if full:
        loss = loss + math.log(2 * math.pi) / 2
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    ignore_index: int | None = None,
    options: object = None,
    **kwargs: Any,
) -> Tensor:
    """``F.linear_cross_entropy`` without its chunks, which are an operator of their own."""
    logits = torch.tensordot(input, linear_weight, ([-1], [-1]))
    logits = logits if linear_bias is None else logits + linear_bias
    return F.cross_entropy(logits, target, ignore_index=-100 if ignore_index is None else ignore_index, **kwargs)


def cov(x: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None) -> Tensor:
    """``torch.cov`` without its checks of the weights, which look at values."""
    x = x.reshape(1, -1) if x.ndim < 2 else x
    given = [w for w in (fweights, aweights) if w is not None]
    if not given:
        centred = x - x.mean(1, keepdim=True)
        return (centred @ centred.mH / max(x.shape[1] - correction, 0)).squeeze()
    w = given[0] if len(given) == 1 else given[0] * given[1]
    total = w.sum()
    divisor = total - correction
    if aweights is not None and correction:
        divisor = total - correction * (w * aweights).sum() / total
    centred = x - (x * w).sum(1, keepdim=True) / total
    return (centred * w @ centred.mH / divisor.clamp(min=0)).squeeze()


def corrcoef(x: Tensor) -> Tensor:
    """``torch.corrcoef`` of that."""
    c = cov(x)
    if not c.ndim:
        return c / c
    deviation = c.diagonal().real.sqrt()
    return (c / deviation[:, None] / deviation).clamp(-1, 1)


def istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """``torch.istft`` without its check that the windows overlap everywhere: where they do not, nan for its error."""
    hop = n_fft // 4 if hop_length is None else hop_length
    size = n_fft if win_length is None else win_length
    w = torch.ones(size, dtype=input.real.dtype, device=input.device) if window is None else window
    w = F.pad(w, ((n_fft - size) // 2, (n_fft - size + 1) // 2))
    spectra, norm = (input if input.ndim == 3 else input[None]).mT, "ortho" if normalized else None
    if return_complex:
        frames = torch.fft.ifft(spectra, norm=norm)
    else:
        frames = torch.fft.irfft(spectra[..., : n_fft // 2 + 1], n_fft, norm=norm)
    total = n_fft + hop * (frames.shape[1] - 1)

    def overlapped(frames: Tensor) -> Tensor:
        return aten.unfold_backward(frames, [frames.shape[0], total], 1, n_fft, hop)

    start = n_fft // 2 if center else 0
    end = total - start if length is None else start + length
    envelope = overlapped((w * w).expand(1, *frames.shape[1:]))[:, start:end]
    envelope = torch.where(envelope.abs().min() < 1e-11, math.nan, envelope)
    y = F.pad(overlapped(frames * w)[:, start:end] / envelope, (0, max(end - total, 0)))
    return y if input.ndim == 3 else y[0]


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """``torch.combinations``, whose rows are counted."""
    if r == 0:
        return input.new_empty(0)
    places = torch.meshgrid([torch.arange(len(input), device=input.device)] * r, indexing="ij")
    chosen = torch.ones_like(places[0], dtype=torch.bool)
    for i in range(r - 1):
        chosen = chosen & (places[i] <= places[i + 1] if with_replacement else places[i] < places[i + 1])
    return torch.stack([input[each[chosen]] for each in places], 1)


def tensor_split(
    input: Tensor, indices_or_sections: Any = None, dim: int = 0, *, indices: Any = None, sections: Any = None
) -> tuple[Tensor, ...]:
    """``torch.tensor_split``, whose places are read where a tensor holds them."""
    given = next(each for each in (indices_or_sections, indices, sections) if each is not None)
    given = given.tolist() if isinstance(given, Tensor) else given
    if isinstance(given, int):
        whole, more = divmod(input.shape[dim], given)
        return input.split([whole + (i < more) for i in range(given)], dim)  # type: ignore[no-untyped-call]
    ends = [0, *given, input.shape[dim]]
    return tuple(input[(slice(None),) * (dim % input.ndim) + (slice(a, b),)] for a, b in pairwise(ends))


def one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    """``F.one_hot``, whose classes are counted where they are not given."""
    classes = torch.arange(num_classes if num_classes >= 0 else int(x.max()) + 1, device=x.device)
    return (x.unsqueeze(-1) == classes).long()


def repeat_interleave(
    x: Tensor, repeats: object = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """``torch.repeat_interleave``, whose rows are counted."""
    if repeats is None:
        return aten.repeat_interleave.Tensor(x, output_size=int(x.sum()))
    if isinstance(repeats, Tensor):
        x, dim = (x.flatten(), 0) if dim is None else (x, dim)
        repeats = repeats.expand(x.shape[dim])
        return x.index_select(dim, aten.repeat_interleave.Tensor(repeats, output_size=int(repeats.sum())))
    return aten.repeat_interleave.self_int(x, repeats, dim, output_size=output_size)


def bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """``torch.bincount``, whose bins are counted."""
    bins = max(int(x.max()) + 1 if x.numel() else 0, minlength)
    weights = torch.ones_like(x, dtype=torch.long) if weights is None else weights.detach()
    weights = weights if weights.dtype in (torch.long, torch.float32) else weights.double()
    return torch.zeros(bins, dtype=weights.dtype, device=x.device).scatter_add(0, x.long(), weights)


def fill_diagonal_(x: Tensor, fill_value: float, wrap: bool = False) -> Tensor:
    """``Tensor.fill_diagonal_``, which writes by strides, as a mask: every Σ stride-th entry of a contiguous x."""
    step = sum(math.prod(x.shape[i + 1 :]) for i in range(x.ndim))
    place = torch.arange(x.numel(), device=x.device)
    on = place % step == 0
    if not wrap and x.ndim == 2:
        on = on & (place < x.shape[1] ** 2)  # of a tall matrix
    return x.masked_fill_(on.reshape(x.shape), fill_value)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """``F.selu``, whose ``selu_`` functionalize does not know."""
    found = torch.selu(input)
    return input.copy_(found) if inplace else found


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """``F.rrelu`` as a product with the slopes that it draws, and draws outside of training none."""
    if training:
        like = input.detach()  # how many are drawn depends on it, and no slope does
        slopes = aten.rrelu_with_noise_functional.default(like, torch.empty_like(like), lower, upper, True)[1]
        found = input * slopes
    else:
        found = F.leaky_relu(input, (lower + upper) / 2)
    return input.copy_(found) if inplace else found


class LeastSquares(NamedTuple):
    """What ``torch.linalg.lstsq`` returns."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


def lstsq(input: Tensor, b: Tensor, rcond: float | None = None, *, driver: str | None = None) -> LeastSquares:
    """``torch.linalg.lstsq`` by the pseudoinverse, for a matrix of full rank: elsewhere its residuals are empty, and
    here nan."""
    rows, columns = input.shape[-2:]
    is_vector = b.ndim == 1 or b.shape == input.shape[:-1]
    right = b.unsqueeze(-1) if is_vector else b
    x = torch.linalg.pinv(input, rtol=rcond) @ right
    driver = driver or ("gels" if input.is_cuda else "gelsy")
    s = torch.linalg.svdvals(input)
    limit = max(rows, columns) * torch.finfo(input.dtype).eps if rcond is None else rcond
    rank = (s > limit * s.amax(-1, keepdim=True)).sum(-1) if s.shape[-1] else s.new_zeros(s.shape[:-1]).long()
    residuals = x.real.new_empty(0)
    if rows > columns and driver != "gelsy":
        residuals = (input @ x - right).abs().square().sum(-2)
        residuals = torch.where((rank == columns).all(), residuals, math.nan)
    return LeastSquares(
        x.squeeze(-1) if is_vector else x,
        residuals,
        rank.new_empty(0) if driver == "gels" else rank,
        s.new_empty(0) if driver in ("gels", "gelsy") else s,
    )


def not_checkpointed(module: object, *args: object, **kwargs: object) -> Any:
    """What ``torch.distributed``'s composable checkpoint wraps around a module: a program holds no activations."""
    yield


def unflagged(*args: object, **kwargs: object) -> Any:
    """``torch.backends.cudnn.flags``: which kernel is taken, not what it computes."""
    return nullcontext()


INLINED: dict[Function, Function] = {**TRACED, **REGISTERED, checkpoint_generator: not_checkpointed}
BEFORE_RECORDING: dict[object, Function] = {
    F.gaussian_nll_loss: gaussian_nll_loss,
    torch.bincount: bincount,
    torch.combinations: combinations,
    torch.corrcoef: corrcoef,
    torch.cov: cov,
    torch.istft: istft,
    torch.linalg.lstsq: lstsq,
    torch.repeat_interleave: repeat_interleave,
    torch.tensor_split: tensor_split,
    F.one_hot: one_hot,
    F.rrelu: rrelu,
    torch.rrelu: rrelu,
    F.selu: selu,
    Tensor.fill_diagonal_: fill_diagonal_,
    torch.backends.cudnn.flags: unflagged,
}
if hasattr(torch, "_grouped_mm"):
    BEFORE_RECORDING[torch._grouped_mm] = grouped_mm
if hasattr(F, "linear_cross_entropy"):  # from torch 2.13 on
    BEFORE_RECORDING[F.linear_cross_entropy] = linear_cross_entropy
