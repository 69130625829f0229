"""A module and a criterion as a pure loss."""

from alpha_func.losses.draws import draws_replayed, rng_state
from alpha_func.losses.module_loss import functional_loss

__all__ = ["draws_replayed", "functional_loss", "rng_state"]
