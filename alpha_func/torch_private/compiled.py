"""What torch.compile has made, in a loss: it runs as it was written while a mode or a transform looks at it.

Dynamo gives up a frame for good that it meets first, or again, under a dispatch mode or forward mode. The frame of a
compiled module is one for all modules of a process, and the training of any of them would go on uncompiled.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import torch


class _Stance:
    """Dynamo's, which is one of the process: ours as long as any thread asks for it, and no recording runs."""

    def __init__(self) -> None:
        self._lock, self._eager, self._recordings = Lock(), 0, 0
        self._ours: Any = None

    def counted(self, *, eager: int = 0, recordings: int = 0) -> None:
        """So many more, or less."""
        with self._lock:
            self._eager += eager
            self._recordings += recordings
            wanted = self._eager > 0 and not self._recordings
            with suppress(RuntimeError):  # within a compiled region it cannot be set
                if wanted and self._ours is None:
                    self._ours = torch.compiler.set_stance("force_eager")  # set from here
                elif not wanted and self._ours is not None:
                    self._ours.__exit__(None, None, None)
                    self._ours = None


_stance = _Stance()


@contextmanager
def uncompiled() -> Iterator[None]:
    """What is compiled runs as it was written within, and stays compiled."""
    if torch.compiler.is_compiling() or "torch._dynamo" not in sys.modules:  # nothing is compiled yet
        yield
        return
    _stance.counted(eager=1)
    try:
        yield
    finally:
        _stance.counted(eager=-1)


@contextmanager
def recordable() -> Iterator[None]:
    """Dynamo records within, though it were in a call that runs uncompiled; the caller's own stance counts."""
    _stance.counted(recordings=1)
    try:
        yield
    finally:
        _stance.counted(recordings=-1)
