"""The optimal step size α* = −dᵀg / dᵀHd of a loss along a direction, exactly, without forming the Hessian."""

import warnings
from importlib import import_module
from typing import Any

import alpha_func.experiment.starting  # noqa: F401  first: for Ctrl-C while the command line imports PyTorch
from alpha_func import errors, tree
from alpha_func.capture import capture
from alpha_func.check import check_quadratic
from alpha_func.losses import functional_loss
from alpha_func.observer import Observer
from alpha_func.optimizers import from_optimizer
from alpha_func.quadratic import Quadratic
from alpha_func.transforms import grad_and_quadratic, hvp, optimal_alpha, quadratic_along

__all__ = [
    "Observer",
    "Quadratic",
    "capture",
    "check_quadratic",
    "errors",
    "from_optimizer",
    "functional_loss",
    "grad_and_quadratic",
    "hvp",
    "optimal_alpha",
    "quadratic_along",
    "tree",
]
__version__ = "0.2.0"

_ROOMS = ("errors", "capture", "check", "data_sets", "observer", "optimizers", "transforms")


def __getattr__(name: str) -> Any:
    """A name that was here in 0.1, from the room where it lives now."""
    for room in _ROOMS:
        module = import_module(f"{__name__}.{room}")
        if name in getattr(module, "__all__", ()):
            warnings.warn(
                f"alpha_func.{name} has moved: from alpha_func.{room} import {name}", DeprecationWarning, stacklevel=2
            )
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
