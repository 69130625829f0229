"""What one run of the benchmark is: the models, the ways, and how they are timed."""

import importlib
from dataclasses import dataclass

from benchmarks.models import MODELS
from benchmarks.ways import UNIT, WAYS

LISTED = ("benchmarks.forward_ways", "benchmarks.peers", "benchmarks.jax_ways")


@dataclass(frozen=True)
class Settings:
    """The options of the command line.

    Attributes:
        models, ways: the names asked for; none for all.
        small: whether the models have their small size, and slow ways run on the first model only.
        rounds: at most, of one model; seconds: what its rounds may take, five rounds apart.
        points: of the training run whose α* is compared with the dense Hessian's.
        patience: seconds until a child is given up.
        extra: modules that register models or ways of the caller's own.
    """

    models: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    small: bool = False
    rounds: int = 20
    seconds: float = 15.0
    points: int = 1000
    threads: int = 2
    workers: int = 2
    device: str = "cpu"
    dtype: str = "float32"
    patience: float = 400.0
    extra: tuple[str, ...] = ()

    def register(self) -> None:
        """Import what registers models and ways; every child begins with it."""
        for module in (*LISTED, *self.extra):
            importlib.import_module(module)

    @property
    def dtypes(self) -> list[str]:
        """The timed one first."""
        return sorted(("float32", "float64"), key=lambda name: name != self.dtype)

    def pairs(self) -> list[tuple[str, str]]:
        """The (model, way) of the table and the curves, in their order; the unit is always there."""
        models = [m for m in MODELS if m in self.models or (not self.models and (MODELS[m].small or not self.small))]
        ways = [w for w in WAYS if not self.ways or w in self.ways or w == UNIT]
        return [(m, w) for m in models for w in ways if self._has(m, w, models)]

    def _has(self, model: str, way: str, models: list[str]) -> bool:
        if self.small and WAYS[way].slow:
            return model == models[0] or way in self.ways
        return WAYS[way].curve or not MODELS[model].curve
