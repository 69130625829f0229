"""The verbs: a loss in, a pure function out; and the compositions of torch.func behind them."""

from alpha_func.transforms.along import quadratic_in_span, taylor_along
from alpha_func.transforms.by_group import directional_sharpness, quadratic_by_group
from alpha_func.transforms.directions import steepest_descent
from alpha_func.transforms.gain import gain_ratio
from alpha_func.transforms.momentum import lr_and_momentum
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
    "directional_sharpness",
    "forward_over_forward",
    "forward_over_reverse",
    "gain_ratio",
    "grad_and_quadratic",
    "hvp",
    "lr_and_momentum",
    "optimal_alpha",
    "quadratic_along",
    "quadratic_by_group",
    "quadratic_in_span",
    "reverse_over_forward",
    "reverse_over_reverse",
    "steepest_descent",
    "taylor_along",
]
