"""What the library raises and warns of, and the line that a warning points at."""

import os
import sys
import warnings
from pathlib import Path

import torch

__all__ = [
    "AlphaFuncError",
    "BatchDependenceWarning",
    "CaptureError",
    "CaptureWarning",
    "DistributedError",
    "ImpureLossError",
    "ObserverError",
    "StrategyError",
]

_NOT_THE_CALLERS = tuple(f"{Path(file).parent}{os.sep}" for file in (__file__, torch.__file__))


class AlphaFuncError(Exception):
    """The base class of the library's own errors; bad arguments raise a TypeError or a ValueError."""


class StrategyError(AlphaFuncError, RuntimeError):
    """PyTorch cannot run a strategy on an operator of the loss; the message names both and what to do."""


class CaptureError(AlphaFuncError, RuntimeError):
    """A loss cannot be captured as a program; the message names the operator or line, and the remedy."""


class ImpureLossError(AlphaFuncError, ValueError):
    """A loss is not a function of its parameters; the message names what it reads, changes or draws, and the remedy."""


class ObserverError(AlphaFuncError, RuntimeError):
    """An observer cannot measure the steps of the loop as it was set up; the message says what to change."""


class DistributedError(AlphaFuncError, RuntimeError):
    """A reduction over ranks failed: a rank failed, hangs, or has different parameters."""


class BatchDependenceWarning(UserWarning):
    """The loss of a batch is not the mean or sum of its examples' losses, so sums over batches are not that of all."""


class CaptureWarning(UserWarning):
    """A program of a captured loss failed its check, and a slower way is used; or it could not be checked."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither the library's nor torch's."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_CALLERS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
