"""How long a capture may take: looked at before every instruction that is recorded and every call that is written."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from alpha_func.errors import CaptureError

_limit: ContextVar[tuple[float, float] | None] = ContextVar("limit", default=None)  # the seconds, and when they end


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Within, a capture that takes longer than so many seconds raises a CaptureError; None: it may take as long as it
    takes.

    >>> with within(0.0):
    ...     require_time()
    Traceback (most recent call last):
    alpha_func.errors.CaptureError: the capture took longer than the 0 seconds that it was given
    """
    before = _limit.set(None if seconds is None else (seconds, time.monotonic() + seconds))
    try:
        yield
    finally:
        _limit.reset(before)


def require_time() -> None:
    """Raise where there is no more."""
    limit = _limit.get()
    if limit is not None and time.monotonic() > limit[1]:
        raise CaptureError(f"the capture took longer than the {limit[0]:g} seconds that it was given")
