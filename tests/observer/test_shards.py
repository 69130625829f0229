"""A loop whose parameters are sharded: its records are those of the whole model on the global batch."""

import pytest

from tests.helpers import sharded_ranks
from tests.helpers.ranks import start

NUMBERS = ("loss", "slope", "curvature", "loss_after", "gain_ratio", "step_norm", "cosine", "weight_decay_share")


@pytest.fixture(scope="module")
def found():
    results = start(sharded_ranks.observed, 2)
    for status, printed, error in results:
        assert status == 0, error
        assert printed == results[0][1]
    return results[0][1]


def test_training_is_bit_for_bit_what_it_is_without(found):
    assert found[0]


def test_records_are_those_of_the_whole_model_on_the_global_batch(found):
    _, records, expected = found
    assert len(records) == 2
    for record, whole in zip(records, expected, strict=True):
        got, wanted = ([each[name] for name in NUMBERS] for each in (record, whole))
        assert got == pytest.approx(wanted, rel=1e-7)
        assert record["ranks"] == 2


def test_the_slope_is_that_of_the_engines_own_gradient(found):
    for record in found[1]:
        assert record["agrees"]
        assert record["trained_slope"] == pytest.approx(record["gradient_factor"] * record["slope"], rel=1e-12)


def test_a_clipped_gradient_is_known_by_slopes_alone(found):
    _, (first, clipped), (_, expected) = found
    assert first["gradient_factor"] == 1
    assert clipped["gradient_factor"] == pytest.approx(expected["gradient_factor"], rel=1e-7)
    assert 0 < clipped["gradient_factor"] < 1
