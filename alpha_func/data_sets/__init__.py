"""More than a batch: many batches, single examples, many processes."""

from alpha_func.data_sets.accumulate import Accumulated, Total, accumulate
from alpha_func.data_sets.distributed import all_reduce, data_parallel_gradient, data_parallel_quadratic
from alpha_func.data_sets.held_out import TwoBatchStep, two_batch
from alpha_func.data_sets.interval import AlphaInterval, alpha_interval
from alpha_func.data_sets.microbatches import MicrobatchedLoss, microbatched
from alpha_func.data_sets.noise_scale import Estimate, NoiseScale, noise_scale
from alpha_func.data_sets.per_example import per_example_quadratics

__all__ = [
    "Accumulated",
    "AlphaInterval",
    "Estimate",
    "MicrobatchedLoss",
    "NoiseScale",
    "Total",
    "TwoBatchStep",
    "accumulate",
    "all_reduce",
    "alpha_interval",
    "data_parallel_gradient",
    "data_parallel_quadratic",
    "microbatched",
    "noise_scale",
    "per_example_quadratics",
    "two_batch",
]
