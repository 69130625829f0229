"""Python's garbage collector, which rests while Dynamo records a loss."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_rest() -> Iterator[None]:
    """Nothing is collected within.

    What Dynamo has read must be there when it makes guards of it: an ``Observer`` of an earlier loop, in a cycle and
    let go of, has a global hook of nn.Module, which goes when it is collected ("KeyError" in a trace of any loss).
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
