"""The derivatives of one operator, as calls in a program.

A complex number is the two real ones that it is made of, with the inner product Re Σ λ̄·t: so an adjoint is the
derivative by the real part plus i times that by the imaginary part, as PyTorch's gradients are, and the pullback of a
function of one complex number is λ·conj(f′).

``first`` is Df[t], ``second`` is D²f[t, t], ``pullback`` is Dfᵀ[λ]. Each is that of the operator's rule, and otherwise
PyTorch's own: the jvp, the jvp of the jvp and the vjp of this one operator, traced.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, func, fx

from alpha_func.calls import Args, Function, Kwargs
from alpha_func.capture.builder.active import is_constant
from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.operands import broadcast, converted, filled
from alpha_func.capture.builder.recorded import Recorded, recorded
from alpha_func.capture.builder.values import Operator, Value, leaves
from alpha_func.capture.derivatives.rule import Call, Derivative, Tangents, rule_of
from alpha_func.torch_private import pytree

aten = torch.ops.aten


def first(b: Builder, call: Call, t: Tangents) -> Value:
    """Df[t], for each output of the call."""
    rule = rule_of(call)
    return _derivative(b, call, t, rule.first if rule else None, _jvp)


def second(b: Builder, call: Call, t: Tangents) -> Value:
    """D²f[t, t], for each output of the call; None where it is zero."""
    rule = rule_of(call)
    return _derivative(b, call, t, rule.second if rule else None, _jvp_of_jvp)


def _derivative(b: Builder, call: Call, t: Tangents, of_rule: Derivative | None, of_torch: Function) -> Value:
    if is_constant(call.target) or all(leaf is None for leaf in leaves(t)):
        return per_output(call, None)
    found = NotImplemented if of_rule is None else of_rule(b, call, t)
    return _as_value(b, call, traced(b, call, t, of_torch) if found is NotImplemented else found)


def pullback(b: Builder, call: Call, active: Tangents, λ: Value) -> list[Value]:
    """Dfᵀ[λ], for each operand where ``active`` (of the nesting of ``call.args``) is true, in order; else None."""
    rule = rule_of(call)
    if rule is None or rule.pullback is None:
        return list(traced(b, call, (active, λ), _vjp))
    found = rule.pullback(b, call, active, λ)
    return found + [None] * (len(leaves(active)) - len(found))


def _as_value(b: Builder, call: Call, found: Value) -> Value:
    """A derivative in the shape and dtype of its value, which the operands may have been broadcast or promoted to."""
    if isinstance(found, (tuple, list)):
        vals = call.value.meta["val"]
        return [None if part is None else _like(b, part, val) for part, val in zip(found, vals, strict=True)]
    return None if found is None else _like(b, found, call.value.meta["val"])


def _like(b: Builder, x: Value, val: Tensor) -> Value:
    if not isinstance(x, fx.Node):
        return filled(b, val.shape, x, val.dtype, val.device)
    return broadcast(b, converted(b, x, val.dtype), val.shape)


def per_output(call: Call, what: object) -> Value:
    """The same for every output: a list where the operator has several."""
    val = call.value.meta["val"] if isinstance(call.value, fx.Node) else None
    return [what] * len(val) if isinstance(val, (tuple, list)) else what


# PyTorch's own derivatives of one operator, traced once for operands of a kind.

_RECORDED: dict[object, Recorded] = {}
_AT_MOST = 4096


def traced(b: Builder, call: Call, tangents: Tangents, transform: Function) -> Value:
    """The derivative that ``transform`` takes of this operator, traced on fake tensors and written here."""
    parts, spec = pytree.tree_flatten((call.args, call.kwargs, tangents), is_leaf=lambda x: x is None)
    where = [i for i, part in enumerate(parts) if isinstance(part, fx.Node)]
    vals = [parts[i].meta["val"] for i in where]
    kinds = tuple((i, val.shape, val.stride(), val.dtype, val.device) for i, val in zip(where, vals, strict=True))
    rest = tuple(repr(part) for i, part in enumerate(parts) if i not in where)
    key = (transform, call.target, kinds, rest, str(spec), torch.get_default_dtype())
    if key not in _RECORDED:

        def derivative(*tensors: Tensor) -> Value:
            filled = list(parts)
            for i, tensor in zip(where, tensors, strict=True):
                filled[i] = tensor
            args, kwargs, ts = pytree.tree_unflatten(filled, spec)
            return transform(call.target, args, kwargs, ts)

        with b.mode:
            # One fake tensor for each operand, though two share theirs: a recorder tells its inputs apart by identity.
            # Dense ones: PyTorch's forward mode takes no expanded tensor.
            inputs = [torch.empty_like(v) for v in vals]
        if len(_RECORDED) == _AT_MOST:
            _RECORDED.clear()
        _RECORDED[key] = recorded(derivative, inputs, b.mode)
    return b.inline(_RECORDED[key], [parts[i] for i in where])


def _restricted(target: Operator, args: Args, kwargs: Kwargs, chosen: Sequence[bool]) -> tuple[Function, list[Value]]:
    """The operator as a function of the chosen ones of the leaves of its operands, and these."""
    parts, spec = pytree.tree_flatten(args, is_leaf=lambda x: x is None)

    def function(*values: Tensor) -> Value:
        given = iter(values)
        filled = [next(given) if pick else leaf for leaf, pick in zip(parts, chosen, strict=True)]
        return target(*pytree.tree_unflatten(filled, spec), **kwargs)

    return function, [leaf for leaf, pick in zip(parts, chosen, strict=True) if pick]


def _jvp(target: Operator, args: Args, kwargs: Kwargs, tangents: Tangents) -> Value:
    ts = leaves(tangents)
    function, at = _restricted(target, args, kwargs, [t is not None for t in ts])
    return func.jvp(function, tuple(at), tuple(t for t in ts if t is not None))[1]


def _jvp_of_jvp(target: Operator, args: Args, kwargs: Kwargs, tangents: Tangents) -> Value:
    ts = leaves(tangents)
    function, at = _restricted(target, args, kwargs, [t is not None for t in ts])
    along = tuple(t for t in ts if t is not None)
    return func.jvp(lambda *x: func.jvp(function, x, along)[1], tuple(at), along)[1]


def _vjp(target: Operator, args: Args, kwargs: Kwargs, active_and_adjoints: Sequence[Value]) -> Value:
    active, adjoints = active_and_adjoints
    chosen = leaves(active)
    several = isinstance(adjoints, (tuple, list))
    function, at = _restricted(target, args, kwargs, chosen)

    def with_adjoints(*x: Tensor) -> Value:
        return [v for v, a in zip(function(*x), adjoints, strict=True) if a is not None] if several else function(*x)

    back = func.vjp(with_adjoints, *at)[1]
    found = iter(back([a for a in adjoints if a is not None] if several else adjoints))
    return [next(found) if pick else None for pick in chosen]
