"""Tensors of one number have one form, `full`, and what is made of them alone is one of them."""

import torch
from torch import Tensor, fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law, is_impure
from alpha_func.capture.builder.operands import Number, dtype_of, filled, is_filled, result_shape, shape_of
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import DIFFERENTIABLE, LAWS
from alpha_func.torch_private import OpOverload, pytree, writes_in_place

aten = torch.ops.aten
_CPU = torch.device("cpu")


@LAWS.law_of_kind
def constants_are_folded(target: Operator) -> Law | None:
    """f(full(a), full(b), ...) = full(f(a, b, ...)), f elementwise."""
    pure = isinstance(target, OpOverload) and not writes_in_place(target) and not is_impure(target)
    if not pure or torch.Tag.pointwise not in target.tags:
        return None

    def elementwise_of_fills_is_a_fill(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        if args and isinstance(args[0], fx.Node) and not is_filled(args[0]):  # most calls
            return None
        nodes = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, fx.Node)]
        if not nodes or not all(map(is_filled, nodes)):
            return None
        # Of one entry each, with as many dimensions: promotion asks for these.
        args, kwargs = pytree.tree_map(lambda x: _one_entry(x) if isinstance(x, fx.Node) else x, (args, kwargs))
        value = target(*args, **kwargs)
        if not isinstance(value, Tensor) or (value.is_complex() and not value.isfinite().all()):
            return None  # Python does not read its own nan·i
        return filled(b, result_shape(*nodes), value.item(), value.dtype, nodes[0].meta["val"].device)

    return elementwise_of_fills_is_a_fill


def _one_entry(x: fx.Node) -> Tensor:
    return torch.full((1,) * len(shape_of(x)), x.args[1], dtype=dtype_of(x), device=_CPU)  # type: ignore[arg-type]


def _fill_of(value: int) -> Law:
    def constructor_is_a_fill(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """zeros(n) = zeros_like(x) = new_zeros(x, n) = full(n, 0), and so for ones."""
        like = args[0] if args and isinstance(args[0], fx.Node) else None
        if like is not None:
            val = like.meta["val"]
            shape = args[1] if len(args) > 1 else val.shape
            dtype, device = kwargs.get("dtype") or val.dtype, kwargs.get("device") or val.device
        else:
            shape, dtype = args[0], kwargs.get("dtype") or torch.get_default_dtype()
            device = kwargs.get("device") or _CPU
        return filled(b, shape, value, dtype, device)

    return constructor_is_a_fill


LAWS.law(aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten._efficientzerotensor.default)(
    _fill_of(0)
)
LAWS.law(aten.ones.default, aten.ones_like.default, aten.new_ones.default)(_fill_of(1))


@LAWS.law(aten.full.default, aten.scalar_tensor.default)
def fills_have_one_form(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """full(n, c), with its dtype and device, and nothing else; scalar_tensor(c) = full((), c)."""
    shape, value = args if len(args) == 2 else ((), *args)
    if not isinstance(value, Number):
        return None
    dtype = kwargs.get("dtype") or (torch.get_default_dtype() if len(args) == 1 else torch.full((), value).dtype)
    return filled(b, shape, value, dtype, kwargs.get("device") or _CPU)


@LAWS.law(aten.full_like.default)
def full_like_is_a_fill(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """full_like(x, c) = full(shape of x, c)."""
    if not isinstance(args[1], Number):
        return None
    val = args[0].meta["val"]
    return filled(b, val.shape, args[1], kwargs.get("dtype") or val.dtype, kwargs.get("device") or val.device)


def _of_a_fill(target: Operator) -> Law:
    def what_moves_numbers_keeps_a_fill(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """f(full(c)) = full(c), f a function that moves numbers."""
        if not is_filled(args[0]):
            return None
        val = b.fake_result(target, args, kwargs)
        return filled(b, val.shape, args[0].args[1], val.dtype, val.device)

    return what_moves_numbers_keeps_a_fill


for _target in (
    aten._to_copy.default,
    aten.clone.default,
    aten.diagonal.default,
    aten.expand.default,
    aten.flip.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.permute.default,
    aten.repeat.default,
    aten.roll.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.reshape.default,
):
    LAWS.law(_target)(_of_a_fill(_target))


_OF_ONE_NUMBER: dict[Operator, object] = {
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default), 0),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), 1),
    **dict.fromkeys((aten.full.default, aten.full_like.default, aten.scalar_tensor.default), None),
}


@DIFFERENTIABLE.law(aten.pow.Tensor_Tensor)
def powers_by_one_number_are_by_a_number(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """x^full(n) = xⁿ: PyTorch's forward mode takes the derivative by an exponent that does not move, and log x, which
    is nan where x is negative, times 0."""
    x, n = args
    if not isinstance(n, fx.Node) or n.target not in _OF_ONE_NUMBER:
        return None
    number = _OF_ONE_NUMBER[n.target]
    number = n.args[-1] if number is None else number
    as_x = result_shape(x, n) == shape_of(x) and torch.result_type(x.meta["val"], n.meta["val"]) == dtype_of(x)
    return b.call(aten.pow.Tensor_Scalar, x, number) if as_x and isinstance(number, Number) else None
