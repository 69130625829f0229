"""Many processes, each its shard: equal to one process with all of it, and no rank left waiting."""

import re

import pytest
import torch

from alpha_func import Quadratic, tree
from alpha_func.data_sets import all_reduce
from alpha_func.errors import DistributedError
from tests.helpers.disagreements import truth_of_fewer
from tests.helpers.ranks import SHARDS, case, start
from tests.helpers.reference import assert_quadratic, dense, flat


def truth():
    loss, params, direction, args = case()
    return dense(loss, params, *args), direction


def found(results):
    """What all ranks printed, which must be the same."""
    for status, printed, error in results:
        assert status == 0, error
        assert printed == results[0][1]
    return results[0][1]


def as_quadratic(numbers):
    return Quadratic(*torch.tensor(numbers, dtype=torch.float64))


@pytest.mark.parametrize("ranks", SHARDS)
def test_uneven_shards_and_a_rank_without_data_give_the_quadratic_of_all(ranks):
    whole, direction = truth()
    for got in found(start("quadratic", ranks)):
        assert_quadratic(as_quadratic(got), whole, direction, 1e-12)


@pytest.mark.parametrize("ranks", SHARDS)
def test_the_gradient_and_the_quadratic_along_it_are_those_of_all(ranks):
    whole, direction = truth()
    grads, got = found(start("step", ranks))
    grads = tree.unflatten([torch.tensor(leaf, dtype=torch.float64) for leaf in grads], tree.structure(direction))
    assert (flat(grads) - whole.gradient).norm() <= 1e-12 * whole.gradient.norm()
    assert_quadratic(as_quadratic(got), whole, tree.neg(grads), 1e-12)


def test_sums_add_up_over_ranks():
    whole, direction = truth()
    got, norm = found(start("of_a_sum", 4))
    expected = Quadratic(*(32 * number for number in whole.quadratic_along(direction)))
    assert got == pytest.approx([float(number) for number in expected], rel=1e-11)
    assert norm == pytest.approx(32 * float(whole.gradient.norm()), rel=1e-12)


def test_a_module_under_ddp_is_unwrapped():
    whole, _ = truth()
    names, got = found(start("wrapped", 2))
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    expected = whole.quadratic_along(-whole.gradient)
    assert got == pytest.approx([float(number) for number in expected], rel=1e-11)


@pytest.mark.parametrize("how", ["one_rank_dies", "one_rank_hangs"])
def test_a_rank_that_is_gone_or_hangs_is_a_clear_error_within_the_timeout(how):
    results = start(how, 2, timeout=4)
    status, _, error = results[0]
    assert status == 1
    assert re.search(r"DistributedError: rank 0 waited for another rank that never arrived", error)


@pytest.fixture(scope="module")
def disagreements():
    """Of three ranks: their errors by name, and what else each found."""
    results = start("disagreements", 3, timeout=100)
    for status, _, error in results:
        assert status == 0, error
    return [printed for _, printed, _ in results]


UNMEASURED = "no error, step 0 was not measured, and training continues:"
CAUSES = {
    "own direction": "DistributedError: each of ranks 1 and 2 has a different direction than rank 0",
    "direction": "DistributedError: rank 2 has a different direction than rank 0",
    "params: values": "DistributedError: rank 2 has different params than rank 0",
    "params": "DistributedError: rank 2 has params with different names, shapes, dtypes or order than rank 0",
    "settings": "DistributedError: rank 2 has different settings",
    "elsewhere": "DistributedError: rank 2 is not at the beginning, where this rank is: every rank must make the same",
    "interrupted": "DistributedError: rank 2 was interrupted",
    "failed": "DistributedError: rank 2 failed: its own error says why",
    "fewer": "DistributedError: rank 2 has only 1 batches, and each of ranks 0 and 1 has more",
    "observer: fewer batches": f"{UNMEASURED} DistributedError: one rank handed over 1 batches for the step",
    "observer: no batch": f"{UNMEASURED} DistributedError: rank 2 failed: its own error says why",
    "observer: failed before": f"{UNMEASURED} DistributedError: rank 2 failed: its own error says why",
    "observer: own steps": f"{UNMEASURED} DistributedError: each of ranks 1 and 2 has",
    "no data": "ValueError: the weights of all ranks are 0",
    "one sum": "ValueError: weight is None on some ranks only",
}
OWN = {
    "elsewhere": "DistributedError: each of ranks 0 and 1 is not at all_reduce",
    "interrupted": "KeyboardInterrupt",
    "observer: no batch": "ObserverError: the step has no batch to be measured on",
    "observer: failed before": f"{UNMEASURED} OSError: no copy",
    "failed: data": "OSError: the disk is gone",
    "failed: lockstep": "OSError: the disk is gone",
    "failed: weight": "ValueError: weight is -1.0",
    "failed: direction": "ValueError: direction must have",
}


def expected(name, causes):
    """Of a name or what stands before its colon."""
    return causes.get(name) or causes.get(name.partition(":")[0])


def test_what_ranks_disagree_on_or_suffer_is_said_on_all_by_global_rank(disagreements):
    names = list(disagreements[0][0])
    assert {cause for cause in CAUSES if not any(name.startswith(cause) for name in names)} == set()
    for rank, (errors, *_) in enumerate(disagreements):
        for name in names[:-1]:
            message = (expected(name, OWN) if rank == 2 else None) or expected(name, CAUSES)
            assert errors[name].startswith(message), (rank, name, errors[name])


def test_nothing_large_is_sent_before_all_agree(disagreements):
    assert [large for _, large, *_ in disagreements] == [[]] * 3


def test_two_exchanges_of_fourteen_numbers_are_all_that_a_quadratic_sends(disagreements):
    for _, _, sent, *_ in disagreements:
        assert sent[:2] == [14, 14]


def test_a_group_is_usable_after_errors_and_ranks_may_differ_in_batches(disagreements):
    truth = [float(number) for number in truth_of_fewer(3)]
    for _, _, _, right, nan in disagreements:
        assert right == pytest.approx(truth, rel=1e-12)
        assert nan  # training diverged, alike on all ranks


def test_ranks_of_a_group_are_named_by_their_global_numbers(disagreements):
    first, outside, failed = (errors["in a group"] for errors, *_ in disagreements)
    assert first.startswith("DistributedError: rank 2 failed")
    assert outside.startswith("DistributedError: rank 1 is not in the group")
    assert failed.startswith("ValueError: weight is -1.0")


def test_without_a_process_group_the_remedy_is_said():
    with pytest.raises(DistributedError, match=r"init_process_group first"):
        all_reduce(Quadratic(*torch.ones(3)), 1.0)
