"""The optimal step size α* = −dᵀg / dᵀHd of a loss along a direction, exactly, without forming the Hessian."""

import alpha_func.experiment.starting  # noqa: F401  first: for Ctrl-C while the command line imports PyTorch
from alpha_func import tree
from alpha_func.capture import CapturedLoss, capture
from alpha_func.check import QuadraticCheck, check_quadratic
from alpha_func.data_sets.accumulate import Total, accumulate
from alpha_func.data_sets.distributed import all_reduce, data_parallel_gradient, data_parallel_quadratic
from alpha_func.data_sets.held_out import TwoBatchStep, two_batch
from alpha_func.data_sets.interval import AlphaInterval, alpha_interval
from alpha_func.data_sets.microbatches import MicrobatchedLoss, microbatched
from alpha_func.data_sets.per_example import per_example_quadratics
from alpha_func.errors import (
    BatchDependenceWarning,
    CaptureError,
    DistributedError,
    ImpureLossError,
    ObserverError,
    StrategyError,
)
from alpha_func.losses.module_loss import functional_loss
from alpha_func.observer.observer import Observer
from alpha_func.observer.record import StepRecord
from alpha_func.optimizers.anatomy import Anatomy, anatomy
from alpha_func.optimizers.pure import Direction, OptimizerStep, from_live_optimizer, from_optimizer
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.directions import steepest_descent
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
    "AlphaInterval",
    "Anatomy",
    "BatchDependenceWarning",
    "CaptureError",
    "CapturedLoss",
    "Direction",
    "DistributedError",
    "ImpureLossError",
    "MicrobatchedLoss",
    "Observer",
    "ObserverError",
    "OptimizerStep",
    "Quadratic",
    "QuadraticCheck",
    "Step",
    "StepRecord",
    "Strategy",
    "StrategyError",
    "Total",
    "TwoBatchStep",
    "accumulate",
    "all_reduce",
    "alpha_interval",
    "anatomy",
    "capture",
    "check_quadratic",
    "data_parallel_gradient",
    "data_parallel_quadratic",
    "forward_over_forward",
    "forward_over_reverse",
    "from_live_optimizer",
    "from_optimizer",
    "functional_loss",
    "grad_and_quadratic",
    "hvp",
    "microbatched",
    "optimal_alpha",
    "per_example_quadratics",
    "quadratic_along",
    "reverse_over_forward",
    "reverse_over_reverse",
    "steepest_descent",
    "tree",
    "two_batch",
]
__version__ = "0.1.0"
