"""A program of sharded parameters is proven by all ranks together; what is wrong is found out on all of them."""

import pytest

from tests.helpers import sharded_ranks
from tests.helpers.ranks import start


@pytest.fixture(scope="module")
def found():
    results = start(sharded_ranks.suspected, 2)
    for status, _, error in results:
        assert status == 0, error
    return [printed for _, printed, _ in results]


def test_where_the_sweep_is_wrong_forward_derivatives_answer(found):
    for of_rank in found:
        for call in of_rank["wrong rule"]:
            assert call == pytest.approx(of_rank["truth"], rel=1e-10)
        (said,) = of_rank["wrong rule, said"]
        assert "the sweep of a captured loss of sharded parameters disagrees" in said


@pytest.mark.parametrize("how", ["wrong rule, strict", "wrong rule, by differences"])
def test_under_strict_a_wrong_sweep_is_an_error_on_all_ranks(found, how):
    for of_rank in found:
        assert of_rank[how].startswith("CaptureError: the sweep of a captured loss of sharded parameters disagrees")


def test_without_forward_derivatives_differences_prove_the_sweep(found):
    for of_rank in found:
        for call in of_rank["by differences"]:
            assert call == pytest.approx(of_rank["truth"], rel=1e-10)


def test_a_model_written_for_the_columns_of_a_rank_is_refused(found):
    for of_rank in found:
        assert of_rank["local width"].startswith(
            "CaptureError: the captured program and the module's own forward on its shards"
        )
        assert "written for the shards of one rank" in of_rank["local width"]
