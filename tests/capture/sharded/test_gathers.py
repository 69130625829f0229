"""What is gathered, in which order, how much of it, and how much is whole at a time: counted."""

from functools import partial
from math import prod as numel

import pytest

from alpha_func import capture, functional_loss
from alpha_func.capture.sharded.collectives import GATHER, TOGETHER, WAIT
from alpha_func.capture.sharded.made import Gathering
from tests.helpers import placements, sharded_ranks
from tests.helpers.fakes import fake_ranks
from tests.helpers.placements import placed, random_direction, sharded
from tests.helpers.ranks import start
from tests.helpers.whole import a_few_of


def made(model, criterion, batch, **options):
    """What this rank would run, of a model that is placed already."""
    loss, params = functional_loss(model, criterion)
    d = placed(random_direction(model), params)
    ready = capture(loss, **options)._sharded._ready(params, d, batch, {})
    return ready.made


def gathered(program):
    """The shapes of each gather of a program."""
    return [
        [tuple(val.shape) for val in (node.meta["val"] if node.target is TOGETHER else [node.meta["val"]])]
        for node in program.graph.nodes
        if node.target in (GATHER, TOGETHER)
    ]


def numbers_of(calls):
    return sum(numel(shape) for call in calls for shape in call)


@pytest.mark.parametrize("ranks", [8, 64])
def test_all_ranks_gather_the_same_in_the_same_order(ranks):
    found = set()
    for rank in (0, ranks - 1):
        with fake_ranks(ranks, rank):
            model, criterion, batch = placements.net()
            of_rank = made(sharded(model), criterion, batch)
            found.add((of_rank.order, str(gathered(of_rank.written()))))
    assert len(found) == 1


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_a_layer_is_one_collective_of_its_parameters_and_their_directions(ranks):
    with fake_ranks(ranks):
        model, criterion, batch = placements.net(width=64)
        shapes = [tuple(p.shape) for p in model.parameters()]
        calls = gathered(made(sharded(model), criterion, batch).written())
    padded = [(-(-rows // ranks) * ranks, *columns) for rows, *columns in shapes]
    assert sorted(shape for call in calls for shape in call) == sorted(padded * 2)
    assert [len(call) for call in calls] == [4] * 5
    assert numbers_of(calls) <= 2.2 * sum(map(numel, padded))


def test_a_gather_begins_as_many_layers_ahead_as_is_said():
    with fake_ranks(8):
        model, criterion, batch = placements.net(depth=3)
        program = made(sharded(model), criterion, batch, gathering=Gathering(ahead=2)).written()
    targets = [node.target for node in program.graph.nodes if node.target in (GATHER, TOGETHER, WAIT)]
    begun = [sum(t is TOGETHER for t in targets[: i + 1]) for i, t in enumerate(targets) if t is WAIT]
    assert begun[::4] == [3, 4, 5, 6, 7, 7, 7]


def test_a_tied_weight_is_gathered_again_where_its_second_use_is_far():
    with fake_ranks(8):
        model, criterion, batch = placements.transformer()
        calls = gathered(made(sharded(model), criterion, batch).written())
    assert [(16, 8) in call for call in (calls[0], calls[-1])] == [True, True]


def traffic_of(name):
    results = start(partial(sharded_ranks.traffic, names=[name]), 2)
    for status, _, error in results:
        assert status == 0, error
    return results[0][1]


@pytest.fixture(scope="module")
def traffic():
    return traffic_of("net")


@pytest.mark.parametrize("name", a_few_of(["net", "transformer"], ["net"]))
def test_at_most_a_block_and_its_direction_is_whole_at_a_time(traffic, name):
    found = (traffic if name == "net" else traffic_of(name))[name]
    assert found["whole"] <= 2 * found["block"]
    assert found["gathered"] <= 2.2 * found["parameters"]


def test_layers_that_are_gathered_ahead_change_no_bit(traffic):
    assert traffic["ahead"] == traffic["at use"]


def test_what_is_sent_in_bfloat16_is_a_quarter_of_float64(traffic):
    exact, rounded = traffic["at use"], traffic["bfloat16"]
    assert traffic["bfloat16 sent"] * 4 == traffic["net"]["gathered"]
    assert rounded == pytest.approx(exact, rel=2e-2)
    assert rounded != exact
