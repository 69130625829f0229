"""Products, sums and their kin, each in one form."""

from typing import Any

import torch
from torch import fx

from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.operands import (
    broadcast,
    dtype_of,
    filled,
    is_call,
    is_number,
    is_zero,
    multiple,
    result_dtype,
    result_shape,
    shape_of,
)
from alpha_func.capture.rewrites.table import law

aten = torch.ops.aten


def renamed(target: Any) -> Law:
    """The law that a call is a call of ``target`` with the same operands."""

    def law_of_names(b: Builder, args: Any, kwargs: Any) -> Any:
        return b.call(target, *args, **kwargs)

    return law_of_names


law(aten.mul.Scalar)(renamed(aten.mul.Tensor))
law(aten.add.Scalar)(renamed(aten.add.Tensor))
law(aten.sub.Scalar)(renamed(aten.sub.Tensor))
law(aten.div.Scalar)(renamed(aten.div.Tensor))


@law(aten.neg.default)
def negation_is_a_product(b: Builder, args: Any, kwargs: Any) -> Any:
    """−x = x·(−1)."""
    return b.call(aten.mul.Tensor, args[0], -1)


@law(aten.div.Tensor)
def quotients_by_numbers_are_products(b: Builder, args: Any, kwargs: Any) -> Any:
    """x/c = x·(1/c)."""
    x, c = args
    if not (is_number(c) and c != 0 and isinstance(x, fx.Node) and x.meta["val"].is_floating_point()):
        return x if is_zero(x) and shape_of(x) == result_shape(*args) else None
    return b.call(aten.mul.Tensor, x, 1 / c)


@law(aten.rsub.Scalar, aten.rsub.Tensor)
def reversed_differences_are_differences(b: Builder, args: Any, kwargs: Any) -> Any:
    """rsub(x, y) = y − x."""
    return None if kwargs or len(args) > 2 else b.call(aten.add.Tensor, b.call(aten.mul.Tensor, args[0], -1), args[1])


@law(aten.sub.Tensor)
def differences_are_sums(b: Builder, args: Any, kwargs: Any) -> Any:
    """x − a·y = x + (−a)·y."""
    x, y = args
    alpha = kwargs.get("alpha", 1)
    if not isinstance(x, fx.Node):
        return b.call(aten.add.Tensor, b.call(aten.mul.Tensor, y, -alpha), x)
    if is_number(y):
        return b.call(aten.add.Tensor, x, -alpha * y)
    return b.call(aten.add.Tensor, x, b.call(aten.mul.Tensor, y, -alpha))


@law(aten.pow.Tensor_Scalar)
def small_powers_are_products(b: Builder, args: Any, kwargs: Any) -> Any:
    """x¹ = x, x² = x·x."""
    x, n = args
    if n == 1:
        return x
    return b.call(aten.mul.Tensor, x, x) if n == 2 else None


def _as_result(b: Builder, x: Any, shape: Any, dtype: torch.dtype) -> Any:
    if dtype_of(x) != dtype:
        x = b.call(aten._to_copy.default, x, dtype=dtype)
    return broadcast(b, x, shape)


def _without_fill(x: Any, other: Any) -> Any:
    """The number that a filled operand is, where the other one has the shape and dtype of the result."""
    if not (is_call(x, aten.full.default) and isinstance(other, fx.Node)):
        return x
    unchanged = shape_of(other) == result_shape(x, other) and dtype_of(other) == result_dtype(x, other)
    return x.args[1] if unchanged else x


def _without_expand(x: Any, other: Any) -> Any:
    """The operand of an expand, where the other operand has the shape of the result."""
    if not is_call(x, aten.expand.default) or shape_of(other) != result_shape(x, other):
        return x
    return x.args[0]


def _bare(x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands without fills and expands, as far as the result stays in its shape and dtype.

    One after the other: each is judged beside what the other has become, for two expands cannot both go.
    """
    for strip in (_without_fill, _without_expand):
        x = strip(x, y)
        y = strip(y, x)
    return _ordered(x, y)


def _ordered(x: Any, y: Any) -> tuple[Any, Any]:
    """Commutative operands in the order in which they were written, the number last."""
    if not isinstance(x, fx.Node) or (isinstance(y, fx.Node) and y < x):
        return y, x
    return x, y


@law(aten.mul.Tensor)
def products_have_one_form(b: Builder, args: Any, kwargs: Any) -> Any:
    """0·x = 0, 1·x = x, full(c)·x = c·x, expand(x)·y = x·y, a·(c·x) = (a·c)·x, (c·x)·y = c·(x·y), x·y = y·x."""
    x, y = args
    if not isinstance(x, fx.Node) and not isinstance(y, fx.Node):
        return x * y
    shape, dtype = result_shape(x, y), result_dtype(x, y)
    for zero in (x, y):
        if is_zero(zero):
            return filled(b, shape, 0, dtype, zero.meta["val"].device)
    x, y = _bare(x, y)
    if is_number(y) and y == 1:
        return _as_result(b, x, shape, dtype)
    (x, a), (y, c) = multiple(x), multiple(y) if isinstance(y, fx.Node) else (y, 1)
    if a * c != 1:
        if is_number(y):
            return b.call(aten.mul.Tensor, x, a * c * y)
        return b.call(aten.mul.Tensor, b.call(aten.mul.Tensor, x, y), a * c)
    x, y = _ordered(x, y)
    return b.write(aten.mul.Tensor, x, y)


@law(aten.add.Tensor)
def sums_have_one_form(b: Builder, args: Any, kwargs: Any) -> Any:
    """x + 0 = x, x + x = 2·x, expand(x) + y = x + y, x + y = y + x; equal and opposite terms of nested
    sums are merged."""
    x, y = args
    if kwargs.get("alpha", 1) != 1:
        return b.call(aten.add.Tensor, x, b.call(aten.mul.Tensor, y, kwargs["alpha"]))
    if not isinstance(x, fx.Node) and not isinstance(y, fx.Node):
        return x + y
    shape, dtype = result_shape(x, y), result_dtype(x, y)
    for term, other in ((x, y), (y, x)):
        if is_zero(term) or (is_number(term) and term == 0):
            return _as_result(b, other, shape, dtype)
    x, y = _bare(x, y)
    if is_number(y):
        return b.write(aten.add.Tensor, x, y)
    terms: dict[Any, float] = {}
    listed = [*_terms(x), *_terms(y)]
    for term, factor in listed:
        terms[term] = terms.get(term, 0) + factor
    if len(terms) == len(listed):
        return b.write(aten.add.Tensor, x, y)
    left = [b.call(aten.mul.Tensor, term, factor) for term, factor in terms.items() if factor != 0]
    total = left[0] if left else filled(b, shape, 0, dtype, x.meta["val"].device)
    for term in left[1:]:
        total = b.call(aten.add.Tensor, total, term)
    return _as_result(b, total, shape, dtype)


def _terms(x: Any, depth: int = 4) -> list[tuple[Any, float]]:
    """The terms of nested sums, each with its factor."""
    if depth and is_call(x, aten.add.Tensor) and all(isinstance(term, fx.Node) for term in x.args):
        return [*_terms(x.args[0], depth - 1), *_terms(x.args[1], depth - 1)]
    return [multiple(x)]


def _multiples_pass(target: Any) -> Law:
    def sums_of_multiples_are_multiples_of_sums(b: Builder, args: Any, kwargs: Any) -> Any:
        """Σ c·x = c·Σ x."""
        x, c = multiple(args[0])
        return None if c == 1 or kwargs else b.call(aten.mul.Tensor, b.call(target, x, *args[1:]), c)

    return sums_of_multiples_are_multiples_of_sums


for _target in (aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim):
    law(_target)(_multiples_pass(_target))


@law(aten.addmm.default)
def affine_products_without_a_bias_are_products(b: Builder, args: Any, kwargs: Any) -> Any:
    """addmm(0, a, b) = a·b; addmm(c, 0, b) = expand(c)."""
    bias, x, y = args
    if kwargs:
        return None
    if is_zero(bias):
        return b.call(aten.mm.default, x, y)
    if is_zero(x) or is_zero(y):
        return broadcast(b, bias, (shape_of(x)[0], shape_of(y)[1]))
    return None
