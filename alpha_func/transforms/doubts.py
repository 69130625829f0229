"""Operators whose second derivatives nobody has verified: one warning of each, until ``check_quadratic`` has.

A check that passes, with differences that converge, settles the operators that the checked quadratic ran, under its
strategy and for the process. One that does not pass settles nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from alpha_func.errors import warn
from alpha_func.verified.table import operator_of

Doubt = tuple[str, str]  # a strategy, the name of a formula
_warned: set[str] = set()
_settled: set[Doubt] = set()
_checked: ContextVar[set[Doubt] | None] = ContextVar("checked", default=None)


def doubt(strategy: str, formula: str) -> None:
    """Warn of a formula, or have it settled by the check that is in progress."""
    in_check = _checked.get()
    if in_check is not None:
        in_check.add((strategy, formula))
    elif (strategy, formula) not in _settled:
        warn_once(f"the second derivative of {operator_of(formula)} has never been verified")


def warn_once(what: str) -> None:
    """A warning of what a check of the result would tell."""
    if what not in _warned and _checked.get() is None:
        _warned.add(what)
        warn(f"{what}: check the result with alpha_func.check_quadratic")


@contextmanager
def being_checked() -> Iterator[set[Doubt]]:
    """A check in progress, and the doubts that it meets."""
    token = _checked.set(found := set[Doubt]())
    try:
        yield found
    finally:
        _checked.reset(token)


def settle(doubts: set[Doubt]) -> None:
    """Doubts that a check has answered."""
    _settled.update(doubts)
