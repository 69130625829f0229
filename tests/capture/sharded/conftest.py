"""What tests of shards share."""

import pytest

from tests.helpers.fakes import fake_ranks


@pytest.fixture(scope="module")
def four_ranks():
    with fake_ranks(4):
        yield
