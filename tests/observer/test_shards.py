"""A loop whose parameters are sharded: its records are those of the whole model on the global batch."""

import pytest
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from alpha_func.observer.shards import MeterOfShards
from tests.helpers import sharded_ranks
from tests.helpers.fakes import fake_ranks
from tests.helpers.placements import mesh_of
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
    _, records, expected, _ = found
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
    _, (first, clipped), (_, expected), _ = found
    assert first["gradient_factor"] == 1
    assert clipped["gradient_factor"] == pytest.approx(expected["gradient_factor"], rel=1e-7)
    assert 0 < clipped["gradient_factor"] < 1


def test_a_loop_in_bfloat16_agrees_and_ranks_that_differ_have_no_record(found):
    assert found[3] == [True, None, None, True]


def test_the_ranks_of_a_smaller_mesh_agree_among_themselves(monkeypatch):
    asked = []

    def all_reduce(numbers, operation=None, group=None):
        asked.append(dist.get_world_size(group))

    with fake_ranks(4):
        model = fully_shard(nn.Linear(4, 2), mesh=mesh_of("copy", "shard")["shard"])
        monkeypatch.setattr(dist, "all_reduce", all_reduce)
        assert MeterOfShards(model, nn.MSELoss(), None).all_are(lambda: 1)
    assert asked == [2]
