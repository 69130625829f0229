"""What holds for every test."""

import logging

import pytest
import torch

from tests.helpers import purity

torch.set_num_threads(1)  # tests run tiny nets: a second costs more than it gives, most of all beside other work
logging.getLogger("torch.__trace").propagate = False  # TorchDynamo's own diary: pytest would collect all of it


@pytest.fixture(autouse=True, scope="session")
def nothing_changes():
    """No call of the library, in any test, changes a module, a generator or a setting of the process."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, name in purity.CALLS:
            patch.setattr(kind, name, purity.watched(getattr(kind, name)))
        yield
