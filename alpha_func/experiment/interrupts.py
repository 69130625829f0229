"""Ctrl-C, SIGTERM and a closed terminal end a command between two of its writes, and never within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupts:
    """Within it every such signal is a KeyboardInterrupt, which waits for the end of what is ``whole``."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._whole = False
        self._waiting = False

    def __enter__(self) -> Self:
        """Listen, except to what the parent process had ignored (nohup)."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the signals as they were."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """What happens within is not interrupted; afterwards what came meanwhile is heard."""
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._whole:
            self._waiting = True
        else:
            raise KeyboardInterrupt
