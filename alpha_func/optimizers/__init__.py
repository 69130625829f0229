"""The step of any torch.optim optimizer as a pure function."""

from alpha_func.optimizers.anatomy import Anatomy, anatomy
from alpha_func.optimizers.pure import Direction, OptimizerStep, from_live_optimizer, from_optimizer

__all__ = ["Anatomy", "Direction", "OptimizerStep", "anatomy", "from_live_optimizer", "from_optimizer"]
