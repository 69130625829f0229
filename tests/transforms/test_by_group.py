"""Slope and curvature by group of parameters: against the dense Hessian, and their sums; and what is refused."""

import pytest
import torch
from torch import func, nn

from alpha_func import capture, quadratic_along, tree
from alpha_func.data_sets import microbatched
from alpha_func.transforms import directional_sharpness, quadratic_by_group
from tests.helpers.cases import MODULES, mse_net
from tests.helpers.reference import assert_close, dense_with_math_attention, flat
from tests.helpers.whole import a_few_of

WAYS = {
    "plain": lambda loss: loss,
    "captured": lambda loss: capture(loss, strict=True),
    "chunked": lambda loss: microbatched(loss, 10),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
WEIGHTS = {"weights": "*.weight", "the rest": ["0.bias", "2.bi*"]}


def parts_of(case, members):
    """The part of the direction in each group, flat: of leaves whose names ``members`` has."""
    return {
        group: flat({n: d if n in names else torch.zeros_like(d) for n, d in case.direction.items()})
        for group, names in members.items()
    }


@every_way
@pytest.mark.parametrize("interactions", [False, True])
def test_groups_are_those_of_the_dense_hessian(interactions, way):
    case = mse_net(activation=nn.Tanh)
    verb = quadratic_by_group(way(case.loss), WEIGHTS, interactions=interactions)
    found = verb(case.params, case.direction, *case.args)
    truth = dense_with_math_attention(case)
    parts = parts_of(case, {"weights": ["0.weight", "2.weight"], "the rest": ["0.bias", "2.bias"]})
    d = flat(case.direction)
    assert list(found.slopes) == list(WEIGHTS)
    for i, part in parts.items():
        assert_close(found.slopes[i], part @ truth.gradient, 1e-12, part.norm() * truth.gradient.norm())
        assert_close(found.curvatures[i], part @ truth.hessian @ d, 1e-12, part.norm() * (truth.hessian @ d).norm())
        assert_close(found.squared_norms[i], part @ part, 1e-13)
        for j, other in parts.items() if interactions else ():
            expected, scale = part @ truth.hessian @ other, part.norm() * (truth.hessian @ other).norm()
            assert_close(found.interactions[i][j], expected, 1e-12, scale)
            assert torch.equal(found.interactions[i][j], found.interactions[j][i])
    assert interactions or found.interactions == {}


@pytest.mark.parametrize("name", a_few_of(MODULES, ["attention", "tied", "unused"]))
def test_groups_sum_to_the_whole_quadratic_on(name):
    case = MODULES[name]()
    whole = quadratic_along(case.loss)(case.params, case.direction, *case.args)
    for interactions in (False, True):
        found = quadratic_by_group(case.loss, interactions=interactions)(case.params, case.direction, *case.args)
        torch.testing.assert_close(found.quadratic, whole, rtol=1e-11, atol=1e-13)
        shares = found.curvature_shares, found.slope_shares
        for one in shares:
            assert_close(sum(one.values()), torch.ones(()), 1e-12)
        sharpness = directional_sharpness(case.loss)(case.params, case.direction, *case.args)
        torch.testing.assert_close(found.directional_sharpness, sharpness, rtol=1e-11, atol=0)


def test_without_groups_a_group_is_a_layer():
    case = MODULES["encoder_layer_eval"]()
    found = quadratic_by_group(case.loss)(case.params, case.direction, *case.args)
    assert list(found.slopes) == ["self_attn", "self_attn.out_proj", "linear1", "linear2", "norm1", "norm2"]


def test_groups_go_through_vmap():
    case = mse_net(activation=nn.Tanh)
    verb = quadratic_by_group(case.loss, ["0.*", "2.*"], interactions=True)
    stacked = tree.map(lambda leaf: torch.stack([leaf, 3 * leaf]), case.direction)
    many = func.vmap(lambda d: verb(case.params, d, *case.args))(stacked)
    once = verb(case.params, case.direction, *case.args)
    assert_close(many.interactions["0.*"]["2.*"][1], 9 * once.interactions["0.*"]["2.*"], 1e-12)


def test_directional_sharpness_does_not_depend_on_the_length():
    case = mse_net(activation=nn.Tanh)
    verb = directional_sharpness(case.loss)
    once = verb(case.params, case.direction, *case.args)
    assert_close(verb(case.params, tree.scale(-7.0, case.direction), *case.args), once, 1e-13)
    line = quadratic_along(case.loss)(case.params, case.direction, *case.args)
    assert_close(once * tree.vdot(case.direction, case.direction), line.curvature, 1e-13)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({"a": "0.*"}, ValueError, r"groups leave out '2.weight': give a pattern that matches it"),
        (["0.*", "*.weight", "2.bias"], ValueError, r"groups '0.\*' and '\*.weight' both match '0.weight'"),
        (["*", "7.*"], ValueError, r"groups pattern of '7.\*' matches no leaf of params: they are 0.weight"),
        ({}, TypeError, r"groups must be a dict of name to pattern or patterns, or a list of patterns, got \{\}"),
        ("*", TypeError, r"groups must be a dict .*, got '\*'"),
        ({"a": 3}, TypeError, r"groups must be a dict .*, got \{'a': 3\}"),
        ([3], TypeError, r"groups must be a dict .*, got \[3\]"),
    ],
)
def test_groups_are_refused(groups, error, message):
    case = mse_net()
    with pytest.raises(error, match=message):
        quadratic_by_group(case.loss, groups)(case.params, case.direction, *case.args)


def test_a_list_of_lists_of_patterns_is_refused():
    with pytest.raises(TypeError, match="groups must be a dict"):
        quadratic_by_group(torch.sum, [["a"], ["b"]])
