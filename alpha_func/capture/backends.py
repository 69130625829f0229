"""How a finished program is run."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

Runnable = Callable[..., Sequence[Any]]


def eager(program: fx.GraphModule) -> Runnable:
    """The program as it is, operator by operator."""
    return program.forward


BACKENDS: dict[str, Callable[[fx.GraphModule], Runnable]] = {"eager": eager}
