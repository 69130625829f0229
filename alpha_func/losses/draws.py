"""The random numbers of a loss: seeded, or replayed, and the global generators left where they were.

The generators are the process's, and so are the modules whose parameters a loss replaces while it runs: one thread at a
time has them.
"""

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALONE = threading.RLock()  # held while the generators are seeded, or a module holds other parameters than its own
_replayed: ContextVar["RngState | None"] = ContextVar("replayed", default=None)


class RngState(NamedTuple):
    """Where the global generators stand: torch's, Python's, and NumPy's if it is imported."""

    torch: list[Tensor]
    python: Any
    numpy: Any = None


def rng_state() -> RngState:
    """The state of the global generators, for ``draws_replayed``: where a forward is about to begin.

    >>> state = rng_state()
    >>> dropped = torch.nn.functional.dropout(torch.ones(9))  # what a training step draws
    >>> from alpha_func import functional_loss
    >>> model = torch.nn.Sequential(torch.nn.Linear(9, 9), torch.nn.Dropout())
    >>> loss, params = functional_loss(model, loss_of=lambda model, x: (model[1](x) - dropped).square().sum())
    >>> with draws_replayed(state):
    ...     loss(params, torch.ones(9))
    tensor(0.)
    """
    with ALONE:
        return RngState([generator.get_state() for generator in _generators()], *_others())


@contextmanager
def draws_replayed(state: RngState | None) -> Iterator[None]:
    """Within, losses draw from this state of the global generators instead of from their seed; None changes nothing.

    With the state that a training step's forward began at, a loss has that step's own dropout masks, at every call.
    """
    before = _replayed.set(state)
    try:
        yield
    finally:
        _replayed.reset(before)


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back where they were; other threads' losses wait until then.

    Cheaper than torch.random.fork_rng, and it leaves CUDA alone where nothing has initialised it.
    """
    replayed = _replayed.get()
    with ALONE:
        generators = _generators()
        states = [generator.get_state() for generator in generators]
        others = None if replayed is None else _others()
        try:
            for i, generator in enumerate(generators):
                if replayed is not None and i < len(replayed.torch):
                    generator.set_state(replayed.torch[i])
                else:
                    generator.manual_seed(seed)
            if replayed is not None:
                _set_others(replayed.python, replayed.numpy)
            yield
        finally:
            if others is not None:
                _set_others(*others)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


@contextmanager
def other_generators_kept() -> Iterator[None]:
    """Put Python's generator and NumPy's back at the end."""
    before = _others()
    try:
        yield
    finally:
        _set_others(*before)


def _others() -> tuple[object, object]:
    """The states of Python's generator and of NumPy's."""
    numpy = sys.modules.get("numpy")
    return random.getstate(), numpy.random.get_state() if numpy else None


def _set_others(python: Any, numpy: object) -> None:
    random.setstate(python)
    if numpy is not None:
        sys.modules["numpy"].random.set_state(numpy)


def _generators() -> list[torch.Generator]:
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators.extend(torch.cuda.default_generators)
    return generators
