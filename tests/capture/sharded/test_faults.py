"""Ranks that differ: an error on all of them, at once or within the timeout of the group, and never a wrong number."""

from functools import partial

import pytest

from tests.helpers import sharded_ranks
from tests.helpers.ranks import start
from tests.helpers.whole import WHOLE


@pytest.fixture(scope="module")
def found():
    """Of both ranks."""
    results = start(sharded_ranks.one_sided, 2)
    for status, _, error in results:
        assert status == 0, error
    return [printed for _, printed, _ in results]


@pytest.mark.parametrize("name", ["raises", "raises in itself"])
def test_an_error_of_one_rank_is_one_of_all_before_anything_is_gathered(found, name):
    its_own, others = found[0][name], found[1][name]
    assert "DistributedError" not in its_own
    assert others.startswith("DistributedError: rank 0 failed: its own error says why")


def test_ranks_with_other_parameters_are_refused_before_a_gather(found):
    for of_rank in found:
        assert of_rank["another order"].startswith(
            "DistributedError: at the quadratic of sharded parameters, the ranks are about to gather different"
        )


def test_ranks_may_have_batches_of_other_shapes(found):
    for of_rank in found:
        assert of_rank["another shape"] == pytest.approx(of_rank["whole"], rel=1e-10)


def test_ranks_may_have_tensors_of_other_dtypes(found):
    for of_rank in found:
        assert of_rank["another dtype"] == pytest.approx(of_rank["whole"], rel=1e-6)


def test_after_an_error_that_all_know_of_the_ranks_go_on(found):
    for of_rank in found:
        assert of_rank["whole again"] == of_rank["whole"]


@pytest.mark.parametrize("how", ["dies", pytest.param("hangs", marks=WHOLE)])
def test_a_rank_that_is_gone_is_an_error_within_the_timeout(how):
    (status, (error, seconds), trace), _ = start(partial(sharded_ranks.gone, how=how), 2, timeout=12)
    assert status == 0, trace
    assert error.startswith("DistributedError: rank 0 waited for another rank that never arrived")
    assert seconds < 20
