"""Many batches of sharded parameters: the sums are those of the one big batch."""

import pytest

from tests.helpers import sharded_ranks
from tests.helpers.ranks import start


@pytest.fixture(scope="module")
def found():
    results = start(sharded_ranks.over_batches, 2)
    for status, printed, error in results:
        assert status == 0, error
        assert printed == results[0][1]
    return results[0][1]


def test_a_rank_without_data_takes_part_without_weight(found):
    quadratics, expected, _ = found
    assert quadratics["data_parallel_quadratic"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("way", ["microbatched", "accumulate"])
def test_parts_of_a_batch_make_the_batch(found, way):
    quadratics, expected, _ = found
    assert quadratics[way] == pytest.approx(expected, rel=1e-10)


def test_alpha_is_that_of_the_whole_model(found):
    _, (_, slope, curvature), alpha = found
    assert alpha == pytest.approx(-slope / curvature, rel=1e-10)
