"""Python's garbage collector, which rests while a loss is recorded and programs are written."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_rest() -> Iterator[None]:
    """Nothing is collected within.

    What Dynamo has read must be there when it makes guards of it: an ``Observer`` of an earlier loop, in a cycle and
    let go of, has a global hook of nn.Module, which goes when it is collected ("KeyError" in a trace of any loss).
    And a graph is many small objects that stay: looking through them time and again took a fifth of a first call.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
