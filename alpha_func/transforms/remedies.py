"""What else would work where something cannot run: tried on the loss itself before it is named."""

from collections.abc import Callable, Iterable
from contextvars import ContextVar

_trying: ContextVar[bool] = ContextVar("trying", default=False)


def first_that_runs(candidates: Iterable[tuple[str, Callable[[], object]]]) -> str | None:
    """The name of the first candidate that runs; None where none does, or a candidate is what asks.

    >>> first_that_runs([("halving", lambda: 1 / 0), ("doubling", lambda: 2 * 2)])
    'doubling'
    """
    if _trying.get():
        return None
    token = _trying.set(True)
    try:
        return next((name for name, run in candidates if runs(run)), None)
    finally:
        _trying.reset(token)


def runs(attempt: Callable[[], object]) -> bool:
    """Whether an attempt comes to its end."""
    try:
        attempt()
    except Exception:
        return False
    return True
