"""Which line of the caller's code is running."""

import traceback
from collections.abc import Iterable
from pathlib import Path

import torch

_NOT_THE_CALLERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<frozen")


def here() -> str:
    """`` at file.py:12, `source line```: the innermost line of the running stack that is neither torch's nor ours.

    >>> "at" in here()
    True
    """
    return innermost(traceback.extract_stack())


def innermost(stack: Iterable[traceback.FrameSummary]) -> str:
    """As ``here``, for another stack."""
    for frame in reversed(list(stack)):
        if not frame.filename.startswith(_NOT_THE_CALLERS):
            source = f", `{frame.line}`" if frame.line else ""
            return f" at {Path(frame.filename).name}:{frame.lineno}{source}"
    return ""
