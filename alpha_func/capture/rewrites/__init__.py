"""Rewrites: one small law each. A law says what a call equals.

Laws see a call before it is written, with operands that are simplified already; what a law returns is built of calls
that go through the laws in turn. Numbers are kept, to rounding; a *symbolic zero* (``zeros_like`` and its kin)
multiplies even inf to zero. Importing a module of this package fills the table ``LAWS``.
"""

from alpha_func.capture.rewrites import arithmetic, filled, shapes, strides, zeros
from alpha_func.capture.rewrites.table import LAWS

__all__ = ["LAWS", "arithmetic", "filled", "shapes", "strides", "zeros"]
