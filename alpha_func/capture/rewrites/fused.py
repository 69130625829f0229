"""Kernels that do several operators' work: laws for a program that runs operator by operator, not for a compiler.

Each turns two operators into one pass over memory, and the numbers stay, to rounding.
"""

import torch
from torch import fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.operands import dtype_of, is_call, is_number, result_shape, shape_of
from alpha_func.capture.builder.values import Value
from alpha_func.capture.rewrites.table import FUSED

aten = torch.ops.aten


@FUSED.law(aten.add.Tensor)
def a_sum_is_one_kernel(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """x + c·(a@b) = addmm(x, a, b, alpha=c), x + c·y·z = addcmul(x, y, z, value=c), x + c·y = add(x, y, alpha=c), and
    c − x = rsub(x, c)."""
    if is_number(args[1]) and _is_multiple(args[0]) and args[0].args[1] == -1 and args[0] in b.used_once:
        return b.write(aten.rsub.Scalar, args[0].args[0], args[1])
    for x, term in (args, args[::-1]):
        if not isinstance(x, fx.Node) or not isinstance(term, fx.Node) or term not in b.used_once:
            continue
        inner: Value
        inner, c = term.args if _is_multiple(term) else (term, 1)
        single = inner is term or inner in b.used_once
        grows = shape_of(inner) != result_shape(x, inner)  # these kernels broadcast x to the product, never the product
        if single and is_call(inner, aten.mm.default) and not grows and dtype_of(x) == dtype_of(inner):
            return b.write(aten.addmm.default, x, *inner.args, **({} if c == 1 else {"alpha": c}))
        if single and is_call(inner, aten.bmm.default) and shape_of(x) == shape_of(inner):
            return b.write(aten.baddbmm.default, x, *inner.args, **({} if c == 1 else {"alpha": c}))
        if single and is_call(inner, aten.mul.Tensor) and not _is_multiple(inner) and _same_dtype(x, *inner.args):
            return b.write(aten.addcmul.default, x, *inner.args, **({} if c == 1 else {"value": c}))
        if inner is not term and dtype_of(x) == dtype_of(inner):
            return b.write(aten.add.Tensor, x, inner, alpha=c)
    return None


@FUSED.law(aten.sum.default)
def an_inner_product_is_one_kernel(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """Σ x·y = dot(x, y), which writes no product."""
    (product,) = args
    if kwargs or product not in b.used_once or not is_call(product, aten.mul.Tensor) or _is_multiple(product):
        return None
    x, y = product.args
    order = _dense_order(x, y)
    if order is None or dtype_of(x) != dtype_of(y) or dtype_of(x) not in (torch.float32, torch.float64):
        return None
    in_order = [b.write(aten.permute.default, operand, order) if order else operand for operand in (x, y)]
    return b.write(aten.dot.default, *(b.write(aten.reshape.default, operand, [-1]) for operand in in_order))


def _dense_order(x: fx.Node, y: fx.Node) -> list[int] | None:
    """The order of dimensions in which both lie in memory without gaps, [] for their own; None if there is none."""
    if shape_of(x) != shape_of(y):
        return None
    vals = [x.meta["val"], y.meta["val"]]
    if all(val.is_contiguous() for val in vals):
        return []
    if len(shape_of(x)) == 4 and all(val.is_contiguous(memory_format=torch.channels_last) for val in vals):
        return [0, 2, 3, 1]
    return None


def _is_multiple(x: fx.Node) -> bool:
    return is_call(x, aten.mul.Tensor) and is_number(x.args[1])


def _same_dtype(x: fx.Node, *others: object) -> bool:
    return all(isinstance(y, fx.Node) and dtype_of(y) == dtype_of(x) for y in others)
