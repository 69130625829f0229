"""The operators whose derivatives are written in a closed form, by kind.

Importing a module of this package fills the tables of ``differentials``: FIRST (Df[t]), SECOND (D²f[t, t]), SLOPE and
PULLBACK (Dfᵀ[λ]).
"""

from alpha_func.capture.derivatives import elementwise as functions
from alpha_func.capture.derivatives import linear, linear_algebra, normalisation, products
from alpha_func.capture.derivatives import softmax_and_moments as reductions

__all__ = ["functions", "linear", "linear_algebra", "normalisation", "products", "reductions"]
