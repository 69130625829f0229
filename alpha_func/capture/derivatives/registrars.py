"""How a rule is entered into the table: by what the operator is.

    constant          Df[t] = 0
    linear_in         f(x) linear in some operands together: Df[t] = f(t), D²f = 0
    piecewise_linear  Df[t] as given, D²f = 0
    bilinear          D f(x, y) = f(t_x, y) + f(x, t_y), D² = 2·f(t_x, t_y)
    elementwise       a function of one number: Df[t] = f′·t, D²f[t, t] = f″·t²
    closed_form       both as given, as calls in a program
    in_torch          both as given, in torch's functions

Each takes the cases by which its operators are tried, and the condition under which it holds.
"""

from collections.abc import Callable, Mapping
from operator import getitem, itemgetter

import torch
from torch import fx

from alpha_func.calls import Function
from alpha_func.capture.builder.builder import Builder, plus, times
from alpha_func.capture.builder.operands import conjugate, filled_like
from alpha_func.capture.builder.values import Operator, Value, leaves
from alpha_func.capture.derivatives.derivative import per_output, traced
from alpha_func.capture.derivatives.rule import (
    RULES,
    Call,
    Case,
    Condition,
    Derivative,
    Diagonal,
    Pullback,
    Rule,
    Squares,
    Tangents,
    always,
)

aten = torch.ops.aten

Cases = Mapping[Operator, Case]
Unary = Callable[[Builder, Value, Value], Value]  # of x and y = f(x)


def closed_form(
    first: Derivative,
    second: Derivative,
    cases: Cases,
    *,
    where: Condition = always,
    pullback: Pullback | None = None,
    bilinear: tuple[int, int] | None = None,
    diagonal: Diagonal | None = None,
) -> None:
    """Operators by both of their derivatives."""
    for operator, case in cases.items():
        RULES[operator] = Rule(first, second, where, case, pullback, bilinear, diagonal)


def _zero(b: Builder, call: Call, t: Tangents) -> Value:
    return per_output(call, None)


def constant(cases: Cases, *, where: Condition = always) -> None:
    """Operators of which no derivative is other than zero, though their values depend on their operands."""
    closed_form(_zero, _zero, cases, where=where)


def piecewise_linear(first: Derivative, cases: Cases, *, where: Condition = always) -> None:
    """Operators that are linear on each side of a kink, or that are linear with part of their outputs constant."""
    closed_form(first, _zero, cases, where=where)


def linear_in(places: tuple[int, ...], cases: Cases) -> None:
    """Operators that are linear in the operands at these places together, whatever the others are."""

    def first(b: Builder, call: Call, t: Tangents) -> Value:
        others = [part for i, part in enumerate(t) if i not in places]
        if any(leaf is not None for leaf in leaves(others)):
            return NotImplemented
        broadcasts = torch.Tag.pointwise in call.target.tags
        args = [
            _direction(b, x, tx, broadcasts) if i in places else x
            for i, (x, tx) in enumerate(zip(call.args, t, strict=True))
        ]
        found = b.call(call.target, *args, **call.kwargs)
        outputs = per_output(call, found)
        return [b.call(getitem, found, i) for i in range(len(outputs))] if isinstance(outputs, list) else found

    closed_form(first, _zero, cases)


def _direction(b: Builder, x: Value, t: Tangents, broadcasts: bool) -> Value:
    """A tangent to stand for its operand; a zero one is as small as the operator takes it."""
    if isinstance(x, (list, tuple)):
        return [_direction(b, part, tangent, broadcasts) for part, tangent in zip(x, t, strict=True)]
    if t is not None or x is None:
        return t
    return filled_like(b, x, 0, () if broadcasts else None) if isinstance(x, fx.Node) else 0


def bilinear(cases: Cases, *, diagonal: Diagonal | None = None) -> None:
    """Operators of two operands, linear in each."""

    def product(b: Builder, call: Call, x: Value, y: Value) -> Value:
        return None if x is None or y is None else b.call(call.target, x, y)

    def first(b: Builder, call: Call, t: Tangents) -> Value:
        x, y = call.args
        return plus(b, product(b, call, t[0], y), product(b, call, x, t[1]))

    def second(b: Builder, call: Call, t: Tangents) -> Value:
        return times(b, product(b, call, *t), 2)

    closed_form(first, second, cases, bilinear=(0, 1), diagonal=diagonal)


def elementwise(
    operator: Operator,
    slope: Unary,
    *,
    case: Case,
    ratio: Unary | None = None,
    bend: Unary | None = None,
    singular: bool = False,
) -> None:
    """A function of one number by f′ and either f″ or r = f″/f′, with which D²f[t, t] = f′·t·t·r.

    Args:
        operator: f.
        slope: f′, of the builder, x and f(x).
        case: a function whose program calls f.
        ratio: r.
        bend: f″.
        singular: whether f′ is infinite at a number where f is not.
    """

    def first(b: Builder, call: Call, t: Tangents) -> Value:
        found = times(b, t[0], slope(b, call.args[0], call.value))
        return zero_where_still(b, t[0], found) if singular else found

    def second(b: Builder, call: Call, t: Tangents) -> Value:
        if bend is not None:
            return times(b, times(b, t[0], t[0]), bend(b, call.args[0], call.value))
        assert ratio is not None
        found = times(b, times(b, first(b, call, t), t[0]), ratio(b, call.args[0], call.value))
        return zero_where_still(b, t[0], found) if singular else found

    def pullback(b: Builder, call: Call, active: Tangents, λ: Value) -> list[Value]:
        return [b.call(aten.mul.Tensor, λ, conjugate(b, slope(b, call.args[0], call.value)))]

    def diagonal(b: Builder, call: Call, λ: Value) -> Squares:
        if singular:  # 0·∞ where nothing moves
            return NotImplemented
        x, y = call.args[0], call.value
        if bend is not None:
            return times(b, λ, bend(b, x, y)), itemgetter(0)
        assert ratio is not None
        return times(b, λ, slope(b, x, y), ratio(b, x, y)), itemgetter(0)

    closed_form(first, second, {operator: case}, pullback=pullback, diagonal=diagonal)


def zero_where_still(b: Builder, t: Value, found: Value) -> Value:
    """A number that does not move leaves f where it is: 0, where 0·∞ would be nan (√ of what a clamp holds at 0).

    Elsewhere it stays the product, which has a derivative by the tangent.
    """
    still = b.call(aten.logical_and.default, b.call(aten.eq.Scalar, t, 0), b.call(aten.ne.Tensor, found, found))
    return b.call(aten.where.self, still, filled_like(b, found, 0, ()), found)


def in_torch(first: Function, second: Function, cases: Cases) -> None:
    """Operators by ``first(operator, args, kwargs, tangents)`` and ``second``, where PyTorch's own are wrong."""

    def written(formula: Function) -> Derivative:
        return lambda b, call, t: traced(b, call, t, formula)

    for operator, case in cases.items():
        RULES[operator] = Rule(written(first), written(second), always, case, replaces=True)
