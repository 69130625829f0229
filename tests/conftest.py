"""What holds for every test."""

import gc
import warnings

import pytest
import torch

from alpha_func.torch_private import GLOBAL_HOOKS
from tests.helpers import purity

torch.set_num_threads(1)  # tests run tiny nets: a second costs more than it gives, most of all beside other work


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
def no_hooks_of_other_tests():
    """The global hook of an abandoned Observer goes at the first call after it was collected: before a test."""
    if any(GLOBAL_HOOKS):
        gc.collect()
        torch.nn.Identity()(None)
