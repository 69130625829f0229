"""Products, sums and their kin, each in one form."""

import torch
from torch import fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.operands import (
    Number,
    broadcast,
    converted,
    dtype_of,
    filled_like,
    is_call,
    is_filled,
    is_inexact,
    is_number,
    is_zero,
    multiple,
    result_dtype,
    result_shape,
    shape_of,
)
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import LAWS

aten = torch.ops.aten


def _promoting(target: Operator) -> Law:
    def promotions_are_conversions(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """f(x, y) = f(x as the dtype of the result, y as it), where torch computes in that dtype.

        Every other law of these operators then speaks of one dtype.
        """
        x, y = args[:2]
        dtype = _computed_in(target, x, y)
        x_, y_ = converted(b, x, dtype), converted(b, y, dtype)
        return None if x_ is x and y_ is y else b.call(target, x_, y_, *args[2:], **kwargs)

    return promotions_are_conversions


def _computed_in(target: Operator, x: Value, y: Value) -> torch.dtype:
    dtype = result_dtype(x, y)
    exact = not (dtype.is_floating_point or dtype.is_complex)
    return torch.get_default_dtype() if exact and target is aten.div.Tensor else dtype


for _target in (
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor),
    *(aten.rsub.Scalar, aten.rsub.Tensor, aten.pow.Tensor_Scalar),
):
    LAWS.law(_target)(_promoting(_target))


@LAWS.law(aten.neg.default)
def negation_is_a_product(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """−x = x·(−1)."""
    return b.call(aten.mul.Tensor, args[0], -1)


@LAWS.law(aten._conj_physical.default)
def conjugates_are_in_memory(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """The conjugate of a real x is x, that of a conjugate its operand; none is a bit that a view carries."""
    (x,) = args
    if not isinstance(x, fx.Node):
        return x.conjugate()
    if not x.meta["val"].is_complex():
        return x
    return x.args[0] if is_call(x, aten._conj_physical.default) else b.write(aten._conj_physical.default, x)


@LAWS.law(aten.div.Tensor)
def quotients_by_numbers_are_products(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """0/y = 0, x/c = x·(1/c)."""
    x, c = args
    if is_zero(x):
        return broadcast(b, x, result_shape(x, c))
    if is_number(c) and c != 0 and is_inexact(x) and _is_normal(1 / c, x):
        return b.call(aten.mul.Tensor, x, 1 / c)
    return None


def _is_normal(c: Number, x: fx.Node) -> bool:
    """Whether the dtype of x holds the number with all its digits."""
    held = torch.finfo(x.meta["val"].dtype)
    return c == 0 or bool(held.tiny <= abs(c) <= held.max)


@LAWS.law(aten.rsub.Scalar, aten.rsub.Tensor)
def reversed_differences_are_differences(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """rsub(x, y, a) = y − a·x."""
    x, y, *alpha = args
    a = alpha[0] if alpha else kwargs.get("alpha", 1)
    return b.call(aten.add.Tensor, b.call(aten.mul.Tensor, x, -a), y)


@LAWS.law(aten.sub.Tensor)
def differences_are_sums(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """x − a·y = x + (−a)·y."""
    x, y = args
    alpha = kwargs.get("alpha", 1)
    if not isinstance(x, fx.Node):
        return b.call(aten.add.Tensor, b.call(aten.mul.Tensor, y, -alpha), x)
    if is_number(y):
        return b.call(aten.add.Tensor, x, -alpha * y)
    return b.call(aten.add.Tensor, x, b.call(aten.mul.Tensor, y, -alpha))


@LAWS.law(aten.pow.Tensor_Scalar)
def small_powers_are_products(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """x¹ = x, x² = x·x, x^½ = √x."""
    x, n = args
    if n == 1:
        return x
    if n == 0.5:
        return b.call(aten.sqrt.default, x)
    return b.call(aten.mul.Tensor, x, x) if n == 2 else None


def _without_fill(x: Value, other: Value) -> Value:
    """The number that a filled operand is, where the other one has the shape of the result."""
    if is_filled(x) and isinstance(other, fx.Node) and shape_of(other) == result_shape(x, other):
        return x.args[1]
    return x


def _without_expand(x: Value, other: Value) -> Value:
    """The operand of an expand, where the other operand has the shape of the result."""
    if not is_call(x, aten.expand.default) or shape_of(other) != result_shape(x, other):
        return x
    return x.args[0]


def _bare(x: Value, y: Value) -> tuple[Value, Value]:
    """Both operands without fills and expands, as far as the result stays in its shape.

    One after the other: each is judged beside what the other has become, for two expands cannot both go.
    """
    for strip in (_without_fill, _without_expand):
        x = strip(x, y)
        y = strip(y, x)
    return _ordered(x, y)


def _ordered(x: Value, y: Value) -> tuple[Value, Value]:
    """Commutative operands in the order in which they were written, the number last."""
    if not isinstance(x, fx.Node) or (isinstance(y, fx.Node) and y < x):
        return y, x
    return x, y


@LAWS.law(aten.mul.Tensor)
def products_have_one_form(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """0·x = 0, 1·x = x, full(c)·x = c·x, expand(x)·y = x·y, a·(c·x) = (a·c)·x, (c·x)·y = c·(x·y), x·y = y·x."""
    x, y = _ordered(*args)
    if not isinstance(x, fx.Node):
        return x * y
    shape = result_shape(x, y)
    for zero in (x, y):
        if is_zero(zero):
            return filled_like(b, zero, 0, shape)
    if not is_inexact(x):
        return b.write(aten.mul.Tensor, x, y)
    x, y = _bare(x, y)
    if is_number(y) and y == 1:
        return broadcast(b, x, shape)
    (u, a), (v, c) = multiple(x), multiple(y)
    if a == c == 1 or not _is_normal(a * c * (y if is_number(y) else 1), x):
        return b.write(aten.mul.Tensor, x, y)
    if is_number(y):
        return b.call(aten.mul.Tensor, u, a * y)
    return b.call(aten.mul.Tensor, b.call(aten.mul.Tensor, u, v), a * c)


@LAWS.law(aten.add.Tensor)
def sums_have_one_form(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """x + 0 = x, x + x = 2·x, expand(x) + y = x + y, x + y = y + x; equal and opposite terms of nested
    sums are merged."""
    x, y = args
    if kwargs.get("alpha", 1) != 1:
        if dtype_of(x) is torch.bool:
            return None
        return b.call(aten.add.Tensor, x, b.call(aten.mul.Tensor, y, kwargs["alpha"]))
    x, y = _ordered(x, y)
    if not isinstance(x, fx.Node):
        return x + y
    shape = result_shape(x, y)
    for term, other in ((x, y), (y, x)):
        if is_zero(term):
            return broadcast(b, other, shape)
    if is_number(y) and y == 0:
        return broadcast(b, x, shape)
    if not is_inexact(x):
        return b.write(aten.add.Tensor, x, y)
    x, y = _bare(x, y)
    if is_number(y):
        return b.write(aten.add.Tensor, x, y)
    terms: dict[Operator, Value] = {}
    listed = [*_terms(x), *_terms(y)]
    for term, factor in listed:
        terms[term] = terms.get(term, 0) + factor
    if len(terms) == len(listed):
        return b.write(aten.add.Tensor, x, y)
    left = [b.call(aten.mul.Tensor, term, factor) for term, factor in terms.items() if factor != 0]
    total = left[0] if left else filled_like(b, x, 0, shape)
    for term in left[1:]:
        total = b.call(aten.add.Tensor, total, term)
    return broadcast(b, total, shape)


def _terms(x: Value, depth: int = 4) -> list[tuple[Value, Value]]:
    """The terms of nested sums, each with its factor."""
    if depth and is_call(x, aten.add.Tensor) and all(isinstance(term, fx.Node) for term in x.args):
        return [*_terms(x.args[0], depth - 1), *_terms(x.args[1], depth - 1)]
    return [multiple(x)]


def _multiples_pass(target: Operator) -> Law:
    def sums_of_multiples_are_multiples_of_sums(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """Σ c·x = c·Σ x."""
        x, c = multiple(args[0])
        return None if c == 1 or kwargs else b.call(aten.mul.Tensor, b.call(target, x, *args[1:]), c)

    return sums_of_multiples_are_multiples_of_sums


for _target in (aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim):
    LAWS.law(_target)(_multiples_pass(_target))


@LAWS.law(aten.addmm.default)
def affine_products_without_a_bias_are_products(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """addmm(0, a, b) = a·b; addmm(c, 0, b) = expand(c)."""
    bias, x, y = args
    if kwargs:
        return None
    if is_zero(bias):
        return b.call(aten.mm.default, x, y)
    if is_zero(x) or is_zero(y):
        return broadcast(b, bias, (shape_of(x)[0], shape_of(y)[1]))
    return None
