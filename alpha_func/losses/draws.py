"""The random numbers of a loss: seeded, or replayed, and the global generators left where they were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_replayed: Sequence[Tensor] | None = None


def rng_state() -> list[Tensor]:
    """The state of the global generators, for ``draws_replayed``."""
    return [generator.get_state() for generator in _generators()]


@contextmanager
def draws_replayed(states: Sequence[Tensor] | None) -> Iterator[None]:
    """Within, losses draw from these states of the global generators instead of from their seed; None changes nothing.

    With the states that a training step's forward began at, a loss has that step's own dropout masks.
    """
    global _replayed
    outer, _replayed = _replayed, states
    try:
        yield
    finally:
        _replayed = outer


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back where they were.

    Cheaper than torch.random.fork_rng, and it leaves CUDA alone where nothing has initialised it.
    """
    generators = _generators()
    states = [generator.get_state() for generator in generators]
    try:
        for i, generator in enumerate(generators):
            if _replayed is not None and i < len(_replayed):
                generator.set_state(_replayed[i])
            else:
                generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _generators() -> list[torch.Generator]:
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators.extend(torch.cuda.default_generators)
    return generators
