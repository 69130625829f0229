"""Rewrites: one small law each. A law says what a call equals, and ``simplify`` applies all of them in one pass.

Laws see a call before it is written, with operands that are simplified already; what a law returns is built of calls
that go through the laws in turn. Common subexpressions are found by the ``Builder``, dead code is left out at the end.
Numbers are kept, to rounding; a *symbolic zero* (``zeros_like`` and its kin) multiplies even inf to zero.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from alpha_func.capture.building import Builder, Law, fake_mode, finished, replay

aten = torch.ops.aten
LAWS: dict[Any, list[Law]] = {}


def simplify(module: fx.GraphModule) -> fx.GraphModule:
    """The program with every law applied, common subexpressions shared and dead code left out.

    For programs that are not differentiated further: ``detach`` is taken for the identity that it is.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> program = make_fx(lambda x: x.detach().t().t() * 1 + torch.zeros_like(x) * x)(torch.ones(2, 3))
    >>> [node.op for node in simplify(program).graph.nodes]
    ['placeholder', 'output']
    """
    builder = Builder(LAWS, fake_mode(module))
    inputs = [
        builder.placeholder(str(node.target), builder.as_fake(node.meta["val"]))
        for node in module.graph.find_nodes(op="placeholder")
    ]
    return finished(builder, replay(module, inputs, builder))


def law(*targets: Any) -> Callable[[Law], Law]:
    """Register a law for these operators."""

    def register(function: Law) -> Law:
        for target in targets:
            LAWS.setdefault(target, []).append(function)
        return function

    return register


# What the laws ask of an operand.


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape; () of a number."""
    return tuple(x.meta["val"].shape) if isinstance(x, fx.Node) else ()


def dtype_of(x: Any) -> torch.dtype | None:
    """The dtype; None of a number, which takes that of its tensors."""
    return x.meta["val"].dtype if isinstance(x, fx.Node) else None


def is_call(x: Any, target: Any) -> bool:
    """Whether x is a call of this operator."""
    return isinstance(x, fx.Node) and x.target is target


def is_zero(x: Any) -> bool:
    """Whether x is a symbolic zero."""
    return is_call(x, aten.full.default) and x.args[1] == 0


def is_number(x: Any) -> bool:
    """Whether x is a Python number."""
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def filled(b: Builder, shape: Any, value: float, dtype: Any, device: Any) -> fx.Node:
    """A tensor of one number: the normal form of zeros, ones and their kin."""
    return b.write(aten.full.default, list(shape), value, dtype=dtype, device=device)


def filled_like(b: Builder, x: fx.Node, value: float, shape: Any = None) -> fx.Node:
    """A tensor of one number, with the shape, dtype and device of x."""
    val = x.meta["val"]
    return filled(b, val.shape if shape is None else shape, value, val.dtype, val.device)


def broadcast(b: Builder, x: Any, shape: Any) -> Any:
    """x in this shape."""
    return b.call(aten.expand.default, x, list(shape))


# Filled tensors.


def _fill_of(value: float) -> Law:
    def constructor_is_a_fill(b: Builder, args: Any, kwargs: Any) -> Any:
        """zeros(n) = zeros_like(x) = new_zeros(x, n) = full(n, 0), and so for ones."""
        like = args[0] if args and isinstance(args[0], fx.Node) else None
        if like is not None:
            val = like.meta["val"]
            shape = args[1] if len(args) > 1 else val.shape
            dtype, device = kwargs.get("dtype") or val.dtype, kwargs.get("device") or val.device
        else:
            shape, dtype = args[0], kwargs.get("dtype") or torch.get_default_dtype()
            device = kwargs.get("device") or torch.device("cpu")
        return filled(b, shape, value, dtype, device)

    return constructor_is_a_fill


law(aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten._efficientzerotensor.default)(_fill_of(0))
law(aten.ones.default, aten.ones_like.default, aten.new_ones.default)(_fill_of(1))


@law(aten.full.default)
def fills_have_one_form(b: Builder, args: Any, kwargs: Any) -> Any:
    """full(n, c), its dtype and device said, and nothing else."""
    if not is_number(args[1]) or kwargs.get("dtype") is None:
        return None
    return filled(b, args[0], args[1], kwargs["dtype"], kwargs.get("device") or torch.device("cpu"))


@law(aten.scalar_tensor.default)
def scalar_tensors_are_fills(b: Builder, args: Any, kwargs: Any) -> Any:
    """scalar_tensor(c) = full((), c)."""
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    return filled(b, (), args[0], dtype, kwargs.get("device") or torch.device("cpu"))


@law(aten.full_like.default)
def full_like_is_a_fill(b: Builder, args: Any, kwargs: Any) -> Any:
    """full_like(x, c) = full(shape of x, c)."""
    if not is_number(args[1]):
        return None
    val = args[0].meta["val"]
    return filled(b, val.shape, args[1], kwargs.get("dtype") or val.dtype, kwargs.get("device") or val.device)


@law(aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten.lift_fresh_copy.default)
def aliases_are_their_operand(b: Builder, args: Any, kwargs: Any) -> Any:
    """alias(x) = x."""
    return args[0]


@law(aten.clone.default)
def clones_in_place_are_their_operand(b: Builder, args: Any, kwargs: Any) -> Any:
    """clone(x) = x, where x lies in memory as the clone would: a program changes nothing in place."""
    val = args[0].meta["val"]
    wanted = kwargs.get("memory_format")
    if wanted in (None, torch.preserve_format):
        return args[0]
    return args[0] if val.is_contiguous(memory_format=wanted) else None


@law(aten._to_copy.default)
def conversions_to_the_same_are_their_operand(b: Builder, args: Any, kwargs: Any) -> Any:
    """to(x, dtype of x) = x."""
    val = args[0].meta["val"]
    same = {"dtype": val.dtype, "device": val.device, "layout": val.layout, "pin_memory": False, "non_blocking": False}
    settled = all(value is None or same.get(name, ...) == value for name, value in kwargs.items())
    return args[0] if settled else None


# One name for each thing.


def renamed(target: Any) -> Law:
    """The law that a call is a call of ``target`` with the same operands."""

    def law_of_names(b: Builder, args: Any, kwargs: Any) -> Any:
        return b.call(target, *args, **kwargs)

    return law_of_names


law(aten._unsafe_view.default, aten._reshape_alias.default, aten.reshape.default)(
    lambda b, args, kwargs: b.call(aten.view.default, args[0], args[1])
)
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
        return x if is_zero(x) and shape_of(x) == _result_shape(*args) else None
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


# Products and sums.


def _result_shape(*operands: Any) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*map(shape_of, operands)))  # type: ignore[no-untyped-call]


def _result_dtype(x: Any, y: Any) -> torch.dtype:
    val = [operand.meta["val"] if isinstance(operand, fx.Node) else operand for operand in (x, y)]
    return torch.result_type(*val)


def _as_result(b: Builder, x: Any, shape: Any, dtype: torch.dtype) -> Any:
    if dtype_of(x) != dtype:
        x = b.call(aten._to_copy.default, x, dtype=dtype)
    return broadcast(b, x, shape)


def _multiple(x: Any) -> tuple[Any, float]:
    """(y, c) with x = c·y."""
    if is_call(x, aten.mul.Tensor) and is_number(x.args[1]):
        return x.args[0], x.args[1]
    return x, 1


def _without_fill(x: Any, other: Any) -> Any:
    """The number that a filled operand is, where the other one has the shape and dtype of the result."""
    if not (is_call(x, aten.full.default) and isinstance(other, fx.Node)):
        return x
    unchanged = shape_of(other) == _result_shape(x, other) and dtype_of(other) == _result_dtype(x, other)
    return x.args[1] if unchanged else x


def _without_expand(x: Any, other: Any) -> Any:
    """The operand of an expand, where the other operand has the shape of the result."""
    if not is_call(x, aten.expand.default) or shape_of(other) != _result_shape(x, other):
        return x
    return x.args[0]


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
    shape, dtype = _result_shape(x, y), _result_dtype(x, y)
    for zero in (x, y):
        if is_zero(zero):
            return filled(b, shape, 0, dtype, zero.meta["val"].device)
    x, y = _without_fill(x, y), _without_fill(y, x)
    x, y = _ordered(_without_expand(x, y), _without_expand(y, x))
    if is_number(y) and y == 1:
        return _as_result(b, x, shape, dtype)
    (x, a), (y, c) = _multiple(x), _multiple(y) if isinstance(y, fx.Node) else (y, 1)
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
    shape, dtype = _result_shape(x, y), _result_dtype(x, y)
    for term, other in ((x, y), (y, x)):
        if is_zero(term) or (is_number(term) and term == 0):
            return _as_result(b, other, shape, dtype)
    x, y = _without_fill(x, y), _without_fill(y, x)
    x, y = _ordered(_without_expand(x, y), _without_expand(y, x))
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
    return [_multiple(x)]


# Shapes.


@law(aten.t.default)
def t_is_a_permutation(b: Builder, args: Any, kwargs: Any) -> Any:
    """t(x) = permute(x, (1, 0))."""
    return b.call(aten.permute.default, args[0], list(reversed(range(len(shape_of(args[0]))))))


@law(aten.transpose.int)
def transposes_are_permutations(b: Builder, args: Any, kwargs: Any) -> Any:
    """transpose(x, i, j) = permute(x, ...)."""
    x, i, j = args
    dims = list(range(len(shape_of(x))))
    if dims:
        dims[i], dims[j] = dims[j], dims[i]
    return b.call(aten.permute.default, x, dims)


@law(aten.permute.default)
def permutations_compose(b: Builder, args: Any, kwargs: Any) -> Any:
    """permute(permute(x, p), q) = permute(x, p∘q), and the identity is none."""
    x, dims = args
    dims = [dim % len(dims) for dim in dims]
    if is_zero(x):
        return filled_like(b, x, 0, [shape_of(x)[dim] for dim in dims])
    if is_call(x, aten.permute.default):
        x, dims = x.args[0], [x.args[1][dim] for dim in dims]
    if dims == sorted(dims):
        return x
    return b.write(aten.permute.default, x, dims)


def _view_of(target: Any) -> Law:
    def squeezes_are_views(b: Builder, args: Any, kwargs: Any) -> Any:
        """squeeze(x) = view(x), unsqueeze(x) = view(x)."""
        with b.mode:
            shape = target(args[0].meta["val"], *args[1:]).shape
        return b.call(aten.view.default, args[0], list(shape))

    return squeezes_are_views


for _target in (aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims):
    law(_target)(_view_of(_target))


@law(aten.view.default)
def views_compose(b: Builder, args: Any, kwargs: Any) -> Any:
    """view(view(x)) = view(x), and the view in the same shape is none."""
    x, shape = args
    if -1 in shape:
        known = 1
        for size in shape:
            known *= size if size != -1 else 1
        shape = [x.meta["val"].numel() // known if size == -1 else size for size in shape]
    if is_zero(x):
        return filled_like(b, x, 0, shape)
    while is_call(x, aten.view.default):
        x = x.args[0]
    return x if shape_of(x) == tuple(shape) else b.write(aten.view.default, x, list(shape))


@law(aten.expand.default)
def expands_compose(b: Builder, args: Any, kwargs: Any) -> Any:
    """expand(expand(x)) = expand(x), the expand to the same shape is none, and of a filled tensor it is filled."""
    x, wanted = args[0], args[1]
    own = (1,) * (len(wanted) - len(shape_of(x))) + shape_of(x)
    shape = [size if new == -1 else new for size, new in zip(own, wanted, strict=True)]
    if is_call(x, aten.full.default):
        return filled_like(b, x, x.args[1], shape)
    if is_call(x, aten.expand.default):
        x = x.args[0]
    return x if shape_of(x) == tuple(shape) else b.write(aten.expand.default, x, shape)


def _zero_of_result(b: Builder, target: Any, args: Any, kwargs: Any) -> Any:
    vals = [arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in args]
    with b.mode:
        val = target(*vals, **kwargs)
    return filled(b, val.shape, 0, val.dtype, val.device)


def _of_zero_is_zero(target: Any, operands: tuple[int, ...]) -> Law:
    def images_of_zero_are_zero(b: Builder, args: Any, kwargs: Any) -> Any:
        """f(0) = 0, f linear in that operand."""
        if any(is_zero(args[i]) for i in operands if i < len(args)):
            return _zero_of_result(b, target, args, kwargs)
        return None

    return images_of_zero_are_zero


ZERO_AT_ZERO: dict[Any, tuple[int, ...]] = {
    aten.sum.default: (0,),
    aten.sum.dim_IntList: (0,),
    aten.mean.default: (0,),
    aten.mean.dim: (0,),
    aten.slice.Tensor: (0,),
    aten.select.int: (0,),
    aten.clone.default: (0,),
    aten._to_copy.default: (0,),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.gather.default: (0,),
    aten.index.Tensor: (0,),
    aten.embedding.default: (0,),
    aten.threshold_backward.default: (0,),
    aten.sgn.default: (0,),
}
for _target, _operands in ZERO_AT_ZERO.items():
    law(_target)(_of_zero_is_zero(_target, _operands))


def _multiples_pass(target: Any) -> Law:
    def sums_of_multiples_are_multiples_of_sums(b: Builder, args: Any, kwargs: Any) -> Any:
        """Σ c·x = c·Σ x."""
        x, c = _multiple(args[0])
        return None if c == 1 or kwargs else b.call(aten.mul.Tensor, b.call(target, x, *args[1:]), c)

    return sums_of_multiples_are_multiples_of_sums


for _target in (aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim):
    law(_target)(_multiples_pass(_target))


@law(aten.sum.dim_IntList)
def sums_over_nothing_are_their_operand(b: Builder, args: Any, kwargs: Any) -> Any:
    """Σ over dims of size 1 is a view."""
    x, dims, *keepdim = args
    shape = shape_of(x)
    over = {dim % len(shape) for dim in dims} if dims else set(range(len(shape)))
    if kwargs or any(shape[dim] != 1 for dim in over):
        return None
    kept = [size for dim, size in enumerate(shape) if (keepdim and keepdim[0]) or dim not in over]
    return b.call(aten.view.default, x, kept)


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
