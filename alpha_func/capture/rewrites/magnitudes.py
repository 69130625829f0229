"""Even functions of magnitudes: |x|² = x², |z|² = Re² z + Im² z, ‖x‖² = Σ |x|², (√s)² = s, cos |x| = cos x.

A magnitude has no derivative where x is 0, but its even functions do. PyTorch differentiates one after the other, and
the second derivative comes out as 0 or nan there: of weight decay on a bias of zeros, or of a kernel of a distance of
0. They are therefore written of x itself, in the program that everything is differentiated from.
"""

import math

import torch
from torch import fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.builder.operands import is_call, is_complex, is_filled, is_inexact, is_number, shape_of
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import DIFFERENTIABLE

aten = torch.ops.aten


def square(b: Builder, x: Value) -> Value:
    """x², written without the magnitude that x is made of; None where it is made of none."""
    if not isinstance(x, fx.Node):
        return None
    if x.target in SQUARES:
        return SQUARES[x.target](b, *x.args, **x.kwargs)
    if x.target in _MOVES or (x.target in _TOTALS and _size(x) == _size(x.args[0])):
        inner = square(b, x.args[0])
        return None if inner is None else b.call(x.target, inner, *x.args[1:], **x.kwargs)
    if is_call(x, aten.mul.Tensor):
        factors: Args = x.args
        for one, other in (factors, factors[::-1]):
            inner = square(b, one)
            if inner is not None:
                return times(b, inner, _own_square(b, other))
    if is_call(x, aten.div.Tensor):
        inner = square(b, x.args[0])
        return None if inner is None else b.call(x.target, inner, _own_square(b, x.args[1]))
    return None


def _size(x: Value) -> int:
    return math.prod(shape_of(x))


def _own_square(b: Builder, x: Value) -> Value:
    return x**2 if is_number(x) else times(b, x, x)


def _absolute(b: Builder, x: Value) -> Value:
    if not is_complex(x):
        return times(b, x, x)
    parts = b.call(aten.view_as_real.default, x)
    return b.call(aten.sum.dim_IntList, times(b, parts, parts), [-1])


def _norm(
    b: Builder, x: Value, order: object = 2, dims: object = None, keepdim: bool = False, **kwargs: object
) -> Value:
    return None if order != 2 or kwargs else b.call(aten.sum.dim_IntList, _absolute(b, x), dims, keepdim)


def _hypotenuse(b: Builder, x: Value, y: Value) -> Value:
    return plus(b, times(b, x, x), times(b, y, y))


def _deviation(b: Builder, *args: object, **kwargs: object) -> Value:
    return b.call(aten.var.correction, *args, **kwargs)


def _bounded(b: Builder, x: Value, least: Value = None, greatest: Value = None) -> Value:
    """A magnitude within bounds that are none below 0 has its square within theirs."""
    inner = square(b, x)
    bounds = [bound for bound in (least, greatest) if bound is not None]
    if inner is None or not _is_positive(x) or not all(is_number(bound) and bound >= 0 for bound in bounds):
        return None
    return b.call(aten.clamp.default, inner, *(None if bound is None else bound**2 for bound in (least, greatest)))


def _chosen(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    """The square of one of two is one of their squares."""
    squares = [square(b, each) for each in (x, y)]
    if squares == [None, None]:
        return None
    of_each = (_own_square(b, z) if squared is None else squared for z, squared in zip((x, y), squares, strict=True))
    return b.call(aten.where.self, condition, *of_each)


def _root(b: Builder, s: Value) -> Value:
    return _power(b, s, 0.5)


def _power(b: Builder, s: Value, n: Value) -> Value:
    """(sⁿ)² = s²ⁿ, s none below 0."""
    if not (_is_positive(s) and is_number(n)):
        return None
    return s if n == 0.5 else b.call(aten.pow.Tensor_Scalar, s, 2 * n)


def _is_positive(x: Value) -> bool:
    """Whether no entry of x can be negative."""
    if is_number(x):
        return not isinstance(x, complex) and bool(x >= 0)
    if not isinstance(x, fx.Node) or is_complex(x):
        return False
    if is_call(x, aten.mul.Tensor):
        return x.args[0] is x.args[1] or all(map(_is_positive, x.args))
    if is_call(x, aten.div.Tensor):
        return all(map(_is_positive, x.args))
    if is_call(x, aten.pow.Tensor_Scalar):
        return _is_even(x.args[1])
    if is_call(x, aten.where.self):
        return all(map(_is_positive, x.args[1:]))
    if is_call(x, aten.add.Tensor):
        return not x.kwargs and all(map(_is_positive, x.args))
    if x.target in _SUMS or x.target in _MOVES:
        return _is_positive(x.args[0])
    return _is_zero(x) or x.target in (*_NORMS, aten.exp.default, aten.relu.default, aten.var.correction)


def _is_zero(x: Value) -> bool:
    """Whether every entry is, as the program was recorded."""
    if isinstance(x, fx.Node):
        return x.target in _ZEROS or (is_filled(x) and bool(x.args[1] == 0))
    return is_number(x) and x == 0


def _is_even(n: Value) -> bool:
    return is_number(n) and not isinstance(n, complex) and n > 0 and n % 2 == 0


SQUARES: dict[Operator, Operator] = {
    aten.abs.default: _absolute,
    aten.clamp.default: _bounded,
    aten.hypot.default: _hypotenuse,
    aten.linalg_vector_norm.default: _norm,
    aten.pow.Tensor_Scalar: _power,
    aten.sqrt.default: _root,
    aten.where.self: _chosen,
    aten.std.correction: _deviation,
}
_SIGNS = SQUARES.keys() - {aten.clamp.default, aten.where.self}  # those are of magnitudes, and none themselves
_NORMS = (aten.abs.default, aten.hypot.default, aten.linalg_vector_norm.default, aten.std.correction)
_ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
# f(x)² = f(x²): they move entries, and change none.
_MOVES = {
    *(aten.reshape.default, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
    *(aten.permute.default, aten.t.default, aten.transpose.int, aten.expand.default, aten.clone.default),
    *(aten.select.int, aten.slice.Tensor, aten.index.Tensor, aten.flip.default, aten.diagonal.default),
}
_TOTALS = {aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim}
_SUMS = _TOTALS | {aten.avg_pool2d.default, aten.avg_pool3d.default}


@DIFFERENTIABLE.law(aten.pow.Tensor_Scalar, signs=_SIGNS)
def even_powers_are_of_squares(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """|x|²ᵏ = (x²)ᵏ."""
    x, n = args
    inner = square(b, x) if _is_even(n) else None
    return inner if inner is None or n == 2 else b.call(aten.pow.Tensor_Scalar, inner, n // 2)


@DIFFERENTIABLE.law(aten.mul.Tensor, signs=_SIGNS)
def products_with_itself_are_squares(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """|x|·|x| = x²."""
    return square(b, args[0]) if args[0] is args[1] else None


@DIFFERENTIABLE.law(aten.sub.Tensor, signs=_SIGNS)
def nothing_is_taken_from_a_magnitude(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """x − 0 = x: the distance of a magnitude from 0, of which a loss is made."""
    x, nothing = args
    if not (is_inexact(x) and _is_zero(nothing)):
        return None
    val = b.fake_result(aten.sub.Tensor, args, kwargs)
    return x if (val.shape, val.dtype) == (x.meta["val"].shape, x.meta["val"].dtype) else None


@DIFFERENTIABLE.law(aten.abs.default, aten.relu.default)
def what_is_positive_is_its_own_magnitude(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """|s| = s, relu s = s, s none below 0."""
    return args[0] if _is_positive(args[0]) else None


@DIFFERENTIABLE.law(aten.mul.Tensor, signs={aten.sgn.default, aten.sign.default})
def signs_of_magnitudes_give_back_what_is_in_them(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """sgn x·|x| = x."""
    for sign, size in (args, args[::-1]):
        if isinstance(sign, fx.Node) and sign.target in (aten.sgn.default, aten.sign.default):
            x = sign.args[0]
            if (size is x and _is_positive(x)) or (is_call(size, aten.abs.default) and size.args[0] is x):
                return x
    return None


@DIFFERENTIABLE.law(aten.linalg_vector_norm.default, signs={aten.abs.default})
def norms_are_of_what_is_in_magnitudes(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """‖s·|x|‖ = ‖s·x‖."""
    x, *rest = args
    signed = _signed(b, x)
    return None if signed is None else b.call(aten.linalg_vector_norm.default, signed, *rest, **kwargs)


def _signed(b: Builder, x: Value) -> Value:
    """x with the sign of what is in the magnitude that it is made of; None where it is made of none."""
    if is_call(x, aten.abs.default):
        return None if is_complex(x.args[0]) else x.args[0]
    if isinstance(x, fx.Node) and x.target in (aten.mul.Tensor, aten.div.Tensor, *_MOVES):
        inner = _signed(b, x.args[0])
        return None if inner is None else b.call(x.target, inner, *x.args[1:], **x.kwargs)
    return None


def _even(f: Operator) -> None:
    @DIFFERENTIABLE.law(f, signs={aten.abs.default})
    def even_functions_are_of_what_is_in_magnitudes(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """f(|x|) = f(x)."""
        of = args[0]
        return b.call(f, *of.args) if is_call(of, aten.abs.default) and not is_complex(of.args[0]) else None


for f in (aten.cos.default, aten.cosh.default, aten.i0.default):
    _even(f)
