"""What holds for every test."""

import gc
import logging
import warnings

import pytest
import torch

from alpha_func.observer import forwards
from alpha_func.torch_private import GLOBAL_HOOKS
from tests.helpers import purity

torch.set_num_threads(1)  # tests run tiny nets: a second costs more than it gives, most of all beside other work

# pytest hands its handlers to every logger that does not propagate; with one, Dynamo writes a trace of each recording.
logging.getLogger("torch.__trace").propagate = True
logging.getLogger("torch.__trace").handlers.clear()

with warnings.catch_warnings():  # torch's own, at the first jvp of a process, which might be in any test
    warnings.simplefilter("ignore")
    torch.func.jvp(torch.sin, (torch.ones(()),), (torch.ones(()),))


@pytest.fixture(autouse=True, scope="session")
def nothing_changes():
    """No call of the library, in any test, changes a module, a generator or a setting of the process."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, name in purity.CALLS:
            patch.setattr(kind, name, purity.watched(getattr(kind, name)))
        yield


@pytest.fixture(autouse=True)
def no_hooks_are_left():
    """Observers that are not closed are disarmed (a doctest's, before); another hook fails the test that left it."""
    _disarm()
    yield
    _disarm()
    assert not any(GLOBAL_HOOKS), f"global hooks of nn.Module are left: {[*map(dict, GLOBAL_HOOKS)]}"


def _disarm():
    for watch in [*forwards._ARMED]:
        watch.disarm()
    torch.nn.Identity()(None)  # the hook of an observer that was collected goes at the next call


def pytest_collection_finish():
    """What has been imported by now stays: the garbage collector need not look through it again, nor as often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20)
