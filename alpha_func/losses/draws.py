"""The random numbers of a loss: seeded, or replayed, and the global generators left where they were.

The generators are the process's, and so are the modules whose parameters a loss replaces while it runs: one thread at a
time has them.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

ALONE = threading.RLock()  # held while the generators are seeded, or a module holds other parameters than its own
_replayed: ContextVar[Sequence[Tensor] | None] = ContextVar("replayed", default=None)


def rng_state() -> list[Tensor]:
    """The state of the global generators, for ``draws_replayed``."""
    with ALONE:
        return [generator.get_state() for generator in _generators()]


@contextmanager
def draws_replayed(states: Sequence[Tensor] | None) -> Iterator[None]:
    """Within, losses draw from these states of the global generators instead of from their seed; None changes nothing.

    With the states that a training step's forward began at, a loss has that step's own dropout masks.
    """
    before = _replayed.set(states)
    try:
        yield
    finally:
        _replayed.reset(before)


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back where they were; other threads' losses wait until then.

    Cheaper than torch.random.fork_rng, and it leaves CUDA alone where nothing has initialised it.
    """
    replayed = _replayed.get() or ()
    with ALONE:
        generators = _generators()
        states = [generator.get_state() for generator in generators]
        try:
            for i, generator in enumerate(generators):
                if i < len(replayed):
                    generator.set_state(replayed[i])
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
