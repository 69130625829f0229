"""Why a loss cannot be captured: the operator or line, and what to do instead."""

import traceback
from pathlib import Path

import torch

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))
EAGER = "use the uncaptured loss with an eager strategy (alpha_func.STRATEGIES)"


def here() -> str:
    """`` at file.py:12, `source line```: the innermost line of the running stack that is neither torch's nor ours.

    >>> "at" in here()
    True
    """
    return _where(traceback.extract_stack())


def where(error: BaseException) -> str:
    """As ``here``, for the stack that an error was raised on."""
    return _where(traceback.extract_tb(error.__traceback__))


def _where(stack: traceback.StackSummary) -> str:
    for frame in reversed(stack):
        if not frame.filename.startswith(_LIBRARIES) and not frame.filename.startswith("<frozen"):
            source = f", `{frame.line}`" if frame.line else ""
            return f" at {Path(frame.filename).name}:{frame.lineno}{source}"
    return ""
