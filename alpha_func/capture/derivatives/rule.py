"""The table of rules: the operators whose derivatives are written in a closed form.

v = f(x)     a call of an operator; x its tensor operands, t their tangents, None where a tangent is zero
λ            the adjoint of v
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.operands import is_complex
from alpha_func.capture.builder.values import Operator, Value, leaves

Tangents = Value  # one for each operand, in the nesting of the operands


class Call(NamedTuple):
    """A call of an operator: its operands and its value, in the program that is written."""

    target: Operator
    args: Args
    kwargs: Kwargs
    value: Value


Derivative = Callable[[Builder, Call, Tangents], Value]
Pullback = Callable[[Builder, Call, Tangents, Value], list[Value]]
Condition = Callable[[Call], bool]
Squares = tuple[Value, Callable[[Tangents], Value]]
Diagonal = Callable[[Builder, Call, Value], Squares]
Case = Callable[..., Tensor]


def always(call: Call) -> bool:
    """The condition of a rule that holds for every call."""
    return True


def of_reals(call: Call) -> bool:
    """The condition of a rule that holds for real operands alone."""
    return not any(map(is_complex, leaves(call.args)))


def of_positions(call: Call) -> bool:
    """The condition of a rule that does not know what may be given by name."""
    return not call.kwargs


@dataclass(frozen=True)
class Rule:
    """The derivatives of an operator.

    Attributes:
        first: Df[t], or ``NotImplemented`` where the tangents are not those that it is for.
        second: D²f[t, t], likewise.
        where: the condition under which the rule holds; a call where it does not has PyTorch's derivatives.
        case: a function of tensors whose program calls the operator, for the tests.
        pullback: Dfᵀ[λ] of the leading operands; those after them have none. None: PyTorch's.
        bilinear: the two operands in which the operator is bilinear, the others being constant or added.
        diagonal: (w, a) of λ, with ⟨λ, D²f[s, t]⟩ = Σ w·a(s)·a(t) and a linear, of real operands, where D²f has that
            form, or ``NotImplemented``.
        replaces: whether PyTorch's own second derivative of the operator is wrong, and none of it is ever used.
    """

    first: Derivative
    second: Derivative
    where: Condition
    case: Case
    pullback: Pullback | None = None
    bilinear: tuple[int, int] | None = None
    diagonal: Diagonal | None = None
    replaces: bool = False


RULES: dict[Operator, Rule] = {}
_left_out: ContextVar[Collection[Operator]] = ContextVar("left_out", default=frozenset())


def rules_left_out() -> frozenset[Operator]:
    """The operators whose rules are left out now."""
    return frozenset(_left_out.get())


def rule_of(call: Call) -> Rule | None:
    """The rule of a call, where it has one."""
    rule = None if call.target in _left_out.get() else RULES.get(call.target)
    return rule if rule is not None and rule.where(call) else None


@contextmanager
def without_rules(operators: Collection[Operator]) -> Iterator[None]:
    """The rules of some operators left out, in this thread alone: their derivatives are then PyTorch's own."""
    token = _left_out.set(operators)
    try:
        yield
    finally:
        _left_out.reset(token)
