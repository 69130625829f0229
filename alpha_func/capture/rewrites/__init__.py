"""Rewrites: one small law each. A law says what a call equals.

Laws see a call before it is written, with operands that are simplified already; what a law returns is built of calls
that go through the laws in turn. Numbers are kept, to rounding; a *symbolic zero* (``zeros_like`` and its kin)
multiplies even inf to zero. Importing a module of this package fills the tables.
"""

from alpha_func.capture.rewrites import (
    angles,
    arithmetic,
    channels_last,
    filled,
    fused,
    magnitudes,
    normalisation,
    powers,
    renamed,
    shapes,
    strides,
    symmetric,
    zeros,
)
from alpha_func.capture.rewrites.rewrite import rewrite
from alpha_func.capture.rewrites.table import CHANNELS_LAST, DIFFERENTIABLE, FUSED, IN_PRIMITIVES, LAWS

__all__ = [
    "CHANNELS_LAST",
    "DIFFERENTIABLE",
    "FUSED",
    "IN_PRIMITIVES",
    "LAWS",
    "angles",
    "arithmetic",
    "channels_last",
    "filled",
    "fused",
    "magnitudes",
    "normalisation",
    "powers",
    "renamed",
    "rewrite",
    "shapes",
    "strides",
    "symmetric",
    "zeros",
]
