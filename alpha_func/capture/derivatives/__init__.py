"""The operators whose derivatives are written in a closed form, by kind.

Importing a module of this package fills the table of rules; ``registrars`` says how a rule is entered.
"""

from alpha_func.capture.derivatives import (
    elementwise,
    linear,
    linear_algebra,
    normalisation,
    products,
    softmax_and_moments,
)

__all__ = ["elementwise", "linear", "linear_algebra", "normalisation", "products", "softmax_and_moments"]
