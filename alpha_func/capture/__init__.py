"""A loss as a program of primitive operators, differentiated only after it has been lowered."""

from alpha_func.capture.captured import CapturedLoss, capture
from alpha_func.capture.program import Program
from alpha_func.capture.sharded.made import Gathering
from alpha_func.errors import CaptureError

__all__ = ["CaptureError", "CapturedLoss", "Gathering", "Program", "capture"]
