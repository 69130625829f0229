"""Many processes, each its shard: equal to one process with all of it, and no rank left waiting."""

import re

import pytest
import torch

from alpha_func import Quadratic, tree
from alpha_func.data_sets import all_reduce
from alpha_func.errors import DistributedError
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


def test_one_reduction_of_eleven_numbers_is_all_that_is_sent():
    assert found(start("traffic", 2)) == [[11, "torch.float64"]]


def test_a_rank_that_raises_is_named_on_the_others_at_once():
    results = start("one_rank_raises", 4, timeout=300)
    assert "OSError: the disk of rank 1 is gone" in results[1][2]
    for rank in (0, 2, 3):
        status, _, error = results[rank]
        assert status == 1
        assert "DistributedError: rank 1 failed before the reduction: its own error says why" in error


@pytest.mark.parametrize("how", ["one_rank_dies", "one_rank_hangs"])
def test_a_rank_that_is_gone_or_hangs_is_a_clear_error_within_the_timeout(how):
    results = start(how, 2, timeout=4)
    status, _, error = results[0]
    assert status == 1
    assert re.search(r"DistributedError: rank 0 waited for the others in vain: one of them failed or hangs", error)


def test_a_direction_of_one_s_own_is_refused_on_every_rank():
    for status, _, error in start("own_directions", 2):
        assert status == 1
        assert "DistributedError: direction differs between ranks" in error


def test_a_bad_argument_is_an_error_on_every_rank():
    (_, _, other), (_, _, own) = start("one_bad_weight", 2)
    assert "ValueError: weight is -1.0" in own
    assert "DistributedError: rank 1 failed" in other
    for _, _, error in start("no_data_anywhere", 2):
        assert "ValueError: the weights of all ranks are 0" in error


def test_without_a_process_group_the_remedy_is_said():
    with pytest.raises(DistributedError, match=r"init_process_group first"):
        all_reduce(Quadratic(*torch.ones(3)), 1.0)


def test_fsdp_and_dtensors_are_refused_with_the_reason_and_the_remedy_is_exact():
    (status, printed, error), (_, _, _) = start("sharded", 2)
    assert status == 0, error
    errors, got = printed
    expected = {
        "fsdp": r"TypeError: module is under FSDP \(it is a FSDPSequential\), whose forward reads its own shards",
        "inner fsdp": r"TypeError: module is under FSDP \(its layer '0' is a FSDPLinear\)",
        "buffer": r"TypeError: module's buffer 'scale' is a DTensor",
        "shard": r"TypeError: params\['0.weight'\] is a DTensor \((S|Shard)\((dim=)?0\)\): PyTorch's",
        "captured": r"TypeError: params\['0.weight'\] is a DTensor",
        "replicate": r"TypeError: params\['0.weight'\] is a DTensor \(R",
        "direction": r"TypeError: direction\['0.weight'\] is a DTensor",
        "quadratic": r"TypeError: quadratic.value is a DTensor",
    }
    for name, message in expected.items():
        assert re.match(message, errors[name]), (name, errors[name])
        assert "full_tensor()" in errors[name]
    whole, direction = truth()
    assert_quadratic(as_quadratic(got), whole, direction, 1e-12)
