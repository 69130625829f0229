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
    """What the library raises of its own; bad arguments are a TypeError or a ValueError."""


class StrategyError(AlphaFuncError, RuntimeError):
    """PyTorch cannot run a strategy on an operator of the loss; the message names both and what to do."""


class CaptureError(AlphaFuncError, RuntimeError):
    """A loss cannot be captured as a program; the message names the operator or line, and the remedy."""


class ImpureLossError(AlphaFuncError, ValueError):
    """A loss is not a function of its parameters; the message names what it reads, changes or draws, and the remedy."""


class ObserverError(AlphaFuncError, RuntimeError):
    """An observer cannot measure the loop's steps as it was set up; the message says what to mend."""


class DistributedError(AlphaFuncError, RuntimeError):
    """A reduction over ranks did not come about: one of them failed, hangs, or has other parameters."""


class BatchDependenceWarning(UserWarning):
    """The loss of a batch is not made of the losses of its examples: sums over batches are not the big batch's."""


class CaptureWarning(UserWarning):
    """A captured loss is right and slower than it should be: a sweep of it was given up, or could not be proven."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither the library's nor torch's."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_CALLERS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
