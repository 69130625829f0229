"""The derivatives of one operator, as calls in a program.

    v = f(x)     a call of an operator; x its tensor operands, t their tangents, None where a tangent is zero
    λ            the adjoint of v

A complex number is the two real ones that it is made of, with the inner product Re Σ λ̄·t: so an adjoint is the
derivative by the real part plus i times that by the imaginary part, as PyTorch's gradients are, and the pullback of a
function of one complex number is λ·conj(f′).

``first`` is Df[t], ``second`` is D²f[t, t], ``pullback`` is Dfᵀ[λ]. An operator has a law where its derivative is
known in a closed form (linear, bilinear, a function of one number, softmax), and otherwise PyTorch's own: the jvp, the
jvp of the jvp and the vjp of this one operator, traced.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, func, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.operands import broadcast, conjugate, converted, filled, is_complex

aten = torch.ops.aten

Value = Any  # a node or a number; None for a zero tangent


class Call(NamedTuple):
    """A call of an operator: its operands and its value, in the program that is written."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any


Rule = Callable[[Builder, Call, tuple[Any, ...]], Any]
FIRST: dict[Any, Rule] = {}
SECOND: dict[Any, Rule] = {}
SLOPE: dict[Any, Callable[[Builder, Call], Any]] = {}  # f′ of a function of one number, shared by both directions

# The adjoints of the leading operands; those after them have none.
PULLBACK: dict[Any, Callable[[Builder, Call, tuple[Any, ...], Any], list[Any]]] = {}

_ruleless: ContextVar[Collection[Any]] = ContextVar("ruleless", default=frozenset())


def has_rule(operator: Any) -> bool:
    """Whether a derivative of an operator is written by a rule."""
    return any(operator in table for table in (FIRST, SECOND, SLOPE, PULLBACK))


@contextmanager
def without_rules(operators: Collection[Any]) -> Iterator[None]:
    """The rules of some operators left out, in this thread alone: their derivatives are then PyTorch's own."""
    token = _ruleless.set(operators)
    try:
        yield
    finally:
        _ruleless.reset(token)


def rules_left_out() -> frozenset[Any]:
    """The operators whose rules are left out now."""
    return frozenset(_ruleless.get())


def _rule(table: Mapping[Any, Callable[..., Any]], operator: Any) -> Callable[..., Any] | None:
    return None if operator in _ruleless.get() else table.get(operator)


def rules(first_rule: Rule, second_rule: Rule, *targets: Any, real: bool = False) -> None:
    """Enter these two into the tables; ``real``: they hold for real operands alone."""
    for target in targets:
        FIRST[target], SECOND[target] = (_of_reals(r) if real else r for r in (first_rule, second_rule))


def _of_reals(rule: Rule) -> Rule:
    def rule_of_reals(b: Builder, call: Call, tangents: Any) -> Any:
        return NotImplemented if any(map(is_complex, pytree.tree_leaves(call.args))) else rule(b, call, tangents)

    return rule_of_reals


FORMULAS: set[str] = set()  # operators whose derivatives are formulas here for all operands, PyTorch's being wrong


def formulas(first_formula: Callable[..., Any], second_formula: Callable[..., Any], *targets: Any) -> None:
    """Enter ``formula(target, args, kwargs, tangents)``, each of tensors in torch's functions, into the tables."""
    for target in targets:
        FIRST[target], SECOND[target] = _composed(first_formula), _composed(second_formula)
        FORMULAS.add(str(target))


def _composed(formula: Callable[..., Any]) -> Rule:
    def rule(b: Builder, call: Call, tangents: Any) -> Any:
        return _traced(b, call, tangents, formula)

    return rule


def no_tangent(b: Builder, call: Call, tangents: Any) -> Any:
    """The rule of what is zero, for each output."""
    return _per_output(call, None)


def first(b: Builder, call: Call, tangents: tuple[Any, ...]) -> Any:
    """Df[t], for each output of the call; ``tangents`` has the nesting of ``call.args``."""
    if all(t is None for t in pytree.tree_leaves(tangents, is_leaf=lambda x: x is None)):
        return _per_output(call, None)
    rule = _rule(FIRST, call.target)
    found = rule(b, call, tangents) if rule else NotImplemented
    return _as_value(b, call, _traced(b, call, tangents, _jvp) if found is NotImplemented else found)


def second(b: Builder, call: Call, tangents: tuple[Any, ...]) -> Any:
    """D²f[t, t], for each output of the call; None where it is zero."""
    if all(t is None for t in pytree.tree_leaves(tangents, is_leaf=lambda x: x is None)):
        return _per_output(call, None)
    rule = _rule(SECOND, call.target)
    found = rule(b, call, tangents) if rule else NotImplemented
    return _as_value(b, call, _traced(b, call, tangents, _jvp_of_jvp) if found is NotImplemented else found)


def pullback(b: Builder, call: Call, active: tuple[Any, ...], adjoints: Any) -> list[Any]:
    """Dfᵀ[λ], for each operand where ``active`` (of the nesting of ``call.args``) is true, in order; else None."""
    if rule := _rule(PULLBACK, call.target):
        found = rule(b, call, active, adjoints)
    elif slope := _rule(SLOPE, call.target):
        found = [b.call(aten.mul.Tensor, adjoints, conjugate(b, slope(b, call)))]
    else:
        return _traced(b, call, (active, adjoints), _vjp)
    return found + [None] * (len(pytree.tree_leaves(active)) - len(found))


def _as_value(b: Builder, call: Call, found: Any) -> Any:
    """A derivative in the shape and dtype of its value, which the operands may have been broadcast or promoted to."""
    if isinstance(found, (tuple, list)):
        vals = call.value.meta["val"]
        return [None if part is None else _like(b, part, val) for part, val in zip(found, vals, strict=True)]
    return None if found is None else _like(b, found, call.value.meta["val"])


def _like(b: Builder, x: Any, val: Tensor) -> Any:
    if not isinstance(x, fx.Node):
        return filled(b, val.shape, x, val.dtype, val.device)
    return broadcast(b, converted(b, x, val.dtype), val.shape)


def _per_output(call: Call, what: Any) -> Any:
    val = call.value.meta["val"] if isinstance(call.value, fx.Node) else None
    return [what] * len(val) if isinstance(val, (tuple, list)) else what


# PyTorch's own derivatives of one operator, traced.


def _traced(b: Builder, call: Call, tangents: Any, transform: Callable[..., Any]) -> Any:
    """The derivative that ``transform`` takes of this operator, traced on fake tensors and written here."""
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs, tangents), is_leaf=lambda x: x is None)
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)]
    vals = [leaves[i].meta["val"] for i in where]
    kinds = tuple((i, val.shape, val.stride(), val.dtype, val.device) for i, val in zip(where, vals, strict=True))
    rest = tuple(repr(leaf) for i, leaf in enumerate(leaves) if i not in where)
    key = (transform, call.target, kinds, rest, str(spec))
    if key not in b.traces:

        def derivative(*tensors: Tensor) -> Any:
            filled = list(leaves)
            for i, tensor in zip(where, tensors, strict=True):
                filled[i] = tensor
            args, kwargs, ts = pytree.tree_unflatten(filled, spec)
            return transform(call.target, args, kwargs, ts)

        with b.mode:
            # One fake tensor for each operand, though two share theirs: make_fx tells its inputs apart by identity.
            # Dense ones: PyTorch's forward mode takes no expanded tensor.
            inputs = [torch.empty_like(v) for v in vals]
            # PyTorch's formulas write in place here and there (linalg_vector_norm).
            b.traces[key] = make_fx(func.functionalize(derivative))(*inputs)
    return b.inline(b.traces[key], [leaves[i] for i in where])


def _restricted(target: Any, args: Any, kwargs: Any, chosen: Sequence[bool]) -> tuple[Callable[..., Any], list[Any]]:
    """The operator as a function of the chosen ones of the leaves of its operands, and these."""
    leaves, spec = pytree.tree_flatten(args, is_leaf=lambda x: x is None)

    def function(*values: Tensor) -> Any:
        given = iter(values)
        filled = [next(given) if pick else leaf for leaf, pick in zip(leaves, chosen, strict=True)]
        return target(*pytree.tree_unflatten(filled, spec), **kwargs)

    return function, [leaf for leaf, pick in zip(leaves, chosen, strict=True) if pick]


def _jvp(target: Any, args: Any, kwargs: Any, tangents: Any) -> Any:
    ts = pytree.tree_leaves(tangents, is_leaf=lambda x: x is None)
    function, at = _restricted(target, args, kwargs, [t is not None for t in ts])
    return func.jvp(function, tuple(at), tuple(t for t in ts if t is not None))[1]


def _jvp_of_jvp(target: Any, args: Any, kwargs: Any, tangents: Any) -> Any:
    ts = pytree.tree_leaves(tangents, is_leaf=lambda x: x is None)
    function, at = _restricted(target, args, kwargs, [t is not None for t in ts])
    along = tuple(t for t in ts if t is not None)
    return func.jvp(lambda *x: func.jvp(function, x, along)[1], tuple(at), along)[1]


def _vjp(target: Any, args: Any, kwargs: Any, active_and_adjoints: Any) -> Any:
    active, adjoints = active_and_adjoints
    chosen = pytree.tree_leaves(active, is_leaf=lambda x: x is None)
    several = isinstance(adjoints, (tuple, list))
    function, at = _restricted(target, args, kwargs, chosen)

    def with_adjoints(*x: Tensor) -> Any:
        return [v for v, a in zip(function(*x), adjoints, strict=True) if a is not None] if several else function(*x)

    back = func.vjp(with_adjoints, *at)[1]
    found = iter(back([a for a in adjoints if a is not None] if several else adjoints))
    return [next(found) if pick else None for pick in chosen]
