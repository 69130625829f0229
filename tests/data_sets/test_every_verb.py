"""Batches, chunks, examples and processes of every verb whose result is linear in the loss."""

from functools import partial

import pytest
import torch
from torch import nn

from alpha_func import capture, functional_loss, hvp, optimal_alpha, quadratic_along, tree
from alpha_func.data_sets import accumulate, microbatched, per_example_quadratics
from alpha_func.errors import CaptureError, StrategyError
from alpha_func.transforms import (
    directional_sharpness,
    lr_and_momentum,
    quadratic_by_group,
    quadratic_in_span,
    taylor_along,
)
from tests.data_sets.test_accumulate import pieces
from tests.helpers.cases import mse_net
from tests.helpers.ranks import VERBS, case, operand_of, start
from tests.helpers.whole import a_third_of

every_verb = pytest.mark.parametrize("name", VERBS)


def net(reduction="mean"):
    return mse_net(criterion=nn.MSELoss(reduction=reduction), activation=nn.Tanh)


def whole(name, of):
    return VERBS[name](of.loss)(of.params, operand_of(name, of), *of.args)


def assert_same(got, expected):
    """To rounding of the largest of a result's numbers; what is of the directions alone, too."""
    assert type(got) is type(expected)
    assert tree.structure(got) == tree.structure(expected)
    for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        scale = max(float(leaf.abs().max()) for leaf in tree.leaves(expected))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13 * scale)


@pytest.fixture(scope="module")
def captured():
    """One loss for all verbs: a program is made once for each shape of batch."""
    return capture(net().loss)


@every_verb
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ragged_batches_sum_to_the_one_big_batch(name, reduction):
    of = net(reduction)
    got = accumulate(of.loss, verb=VERBS[name])(of.params, operand_of(name, of), pieces(of.args))
    assert_same(got, whole(name, of))


@every_verb
def test_captured_ragged_batches_sum_to_the_one_big_batch(name, captured):
    of = net()
    got = accumulate(captured, verb=VERBS[name])(of.params, operand_of(name, of), pieces(of.args, (20, 12)))
    assert_same(got, whole(name, of))


@every_verb
def test_captured_chunks_sum_to_the_one_big_batch(name, captured):
    of = net()
    got = VERBS[name](microbatched(captured, 20))(of.params, operand_of(name, of), *of.args)
    assert_same(got, whole(name, of))


@every_verb
def test_the_mean_over_examples_is_the_one_big_batch(name):
    of = net()
    each = per_example_quadratics(of.loss, verb=VERBS[name], chunk_size=5)(of.params, operand_of(name, of), of.args)
    assert all(leaf.shape[0] == 32 for leaf in tree.leaves(each))
    assert_same(tree.map(lambda leaf: leaf.mean(0), each), whole(name, of))


@pytest.fixture(scope="module")
def ranks():
    """What each of two found."""
    results = start("every_verb", 2)
    for status, _, error in results:
        assert status == 0, error
    return [found for _, found, _ in results]


@every_verb
def test_two_ranks_give_the_one_big_batch_on_both(name, ranks):
    """With uneven shards, and with all data on one of them: what is summed the other is told."""
    result = whole(name, case())
    expected = torch.cat([leaf.reshape(-1) for leaf in tree.leaves(result)])
    for got in (*ranks[0][name], *ranks[1][name]):
        got = torch.tensor(got, dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13 * float(expected.abs().max()))


def test_ranks_with_results_of_two_kinds_are_an_error_on_both(ranks):
    for found in ranks:
        assert found["two kinds"].startswith("DistributedError: the results of the ranks are of different")


def test_a_rank_that_has_weight_and_no_result_is_named_on_all(ranks):
    assert ranks[0]["no result"].startswith("DistributedError: rank 1 failed")
    assert ranks[1]["no result"].startswith("TypeError: result must be a Quadratic")


@pytest.mark.parametrize("verb", [optimal_alpha, directional_sharpness, lr_and_momentum])
def test_what_is_no_sum_over_examples_is_refused_by_name_and_at_once(verb):
    with pytest.raises(TypeError, match=rf"verb {verb.__name__} gives a \w+, which is not linear in the loss"):
        accumulate(torch.sum, verb=verb)


REFUSED = {
    "a product": (hvp, TypeError, r"verb hvp gives a dict, which is not linear in the loss"),
    "no verb": (3, TypeError, r"verb must be callable as verb\(loss\), got int"),
    "a function": (lambda loss: loss, TypeError, r"verb <lambda> gives a Tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_function_is_refused_at_its_first_result(name):
    verb, error, message = REFUSED[name]
    of = net()
    with pytest.raises(error, match=message):
        accumulate(lambda p, *batch: of.loss(p, *batch[-2:]), verb=verb)(of.params, of.direction, [of.args])


def test_a_strategy_is_given_to_the_verb_or_refused_where_it_takes_none():
    of = net()
    got = accumulate(of.loss, verb=quadratic_in_span, strategy="reverse_over_reverse")
    assert_same(got(of.params, operand_of("span", of), pieces(of.args)), whole("span", of))
    with pytest.raises(ValueError, match=r"verb taylor_along\(order=4\) takes no strategy: leave strategy= out"):
        accumulate(of.loss, verb=partial(taylor_along, order=4), strategy="reverse_over_reverse")


def test_the_fisher_information_counts_targets_that_are_not_ignored():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double(), torch.randn(32, 6).double()
    y = torch.randint(3, (32,))
    loss, params = functional_loss(model, nn.CrossEntropyLoss(ignore_index=0))
    d = tree.map(torch.randn_like, params)
    verb = partial(quadratic_along, curvature="fisher")
    got = accumulate(loss, verb=verb)(params, d, pieces((x, y)))
    assert_same(got, verb(loss)(params, d, x, y))


WAYS = {
    "plain": lambda loss, verb: verb(loss),
    "captured": lambda loss, verb: verb(capture(loss)),
    "chunks": lambda loss, verb: verb(microbatched(loss, 7)),
    "batches": lambda loss, verb: lambda p, d, *batch: accumulate(loss, verb=verb)(p, d, pieces(batch)),
    "examples": lambda loss, verb: lambda p, d, *batch: per_example_quadratics(loss, verb=verb)(p, d, batch),
    "examples, plainly": lambda loss, verb: (
        lambda p, d, *batch: per_example_quadratics(loss, verb=verb, strategy="reverse_over_reverse")(p, d, batch)
    ),
}


class Once(torch.autograd.Function):
    """A squared error whose backward has no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z, y):
        return ((z - y) ** 2).mean()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        z, y = ctx.saved_tensors
        return 2 * g * (z - y) / z.numel(), None


def once(of):
    return functional_loss(of.loss.model.module, Once.apply)[0]


def groups(*patterns):
    return partial(quadratic_by_group, groups=list(patterns))


BAD_INPUT = {
    "dependent directions": (
        quadratic_in_span, lambda d: [d, tree.scale(2.0, d)], r"directions\[1\] is a linear combination"
    ),
    "a zero direction": (quadratic_in_span, lambda d: [tree.zeros_like(d), d], r"directions\[0\] is zero: leave it"),
    "no direction": (quadratic_in_span, lambda d: [], r"directions is empty: pass at least one tree"),
    "one tree for a list": (quadratic_in_span, lambda d: d, r"directions must be a list or tuple of trees"),
    "groups that overlap": (groups("0*", "*weight", "*"), lambda d: d, r"groups '0\*' and '\*weight' both match"),
    "groups that leave one out": (groups("0*"), lambda d: d, r"groups leave out '2.weight': give a pattern"),
    "a group of nothing": (groups("q*", "*"), lambda d: d, r"pattern of 'q\*' matches no leaf"),
    "another structure": (quadratic_along, lambda d: [d], r"direction must have the structure of params"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_operands_are_refused_by_name_in_every_way(name, way):
    verb, operand, message = BAD_INPUT[name]
    of = net()
    with pytest.raises((TypeError, ValueError), match=message):
        WAYS[way](of.loss, verb)(of.params, operand(of.direction), *of.args)


@pytest.mark.parametrize(
    ("name", "way"), a_third_of(["quadratic", "taylor", "span", "groups", "gauss_newton"], tuple(WAYS))
)
def test_a_criterion_without_a_second_derivative_is_refused_in_every_way(name, way):
    of = net()
    if way == "examples, plainly" and name == "taylor":
        pytest.skip("it takes no strategy")
    with pytest.raises((StrategyError, CaptureError), match=r"autograd\.Function"):
        WAYS[way](once(of), VERBS[name])(of.params, operand_of(name, of), *of.args)
