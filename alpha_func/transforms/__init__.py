"""The verbs: a loss in, a pure function out; and the compositions of torch.func behind them."""

from alpha_func.transforms.directions import steepest_descent
from alpha_func.transforms.gain import gain_ratio
from alpha_func.transforms.strategies import (
    STRATEGIES,
    Step,
    Strategy,
    forward_over_forward,
    forward_over_reverse,
    reverse_over_forward,
    reverse_over_reverse,
)
from alpha_func.transforms.verbs import grad_and_quadratic, hvp, optimal_alpha, quadratic_along

__all__ = [
    "STRATEGIES",
    "Step",
    "Strategy",
    "forward_over_forward",
    "forward_over_reverse",
    "gain_ratio",
    "grad_and_quadratic",
    "hvp",
    "optimal_alpha",
    "quadratic_along",
    "reverse_over_forward",
    "reverse_over_reverse",
    "steepest_descent",
]
