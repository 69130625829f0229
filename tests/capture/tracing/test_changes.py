"""A loss that changes between two calls is measured as it is now, captured or not."""

import pytest

from alpha_func import capture, quadratic_along, tree
from tests.capture.tracing.changes import CHANGES
from tests.helpers.reference import assert_close, double_backward
from tests.helpers.whole import a_third_of

WAYS = {"captured": capture, "plain": lambda loss: loss}


@pytest.mark.parametrize(("name", "way"), a_third_of(CHANGES, tuple(WAYS), every=2))
def test_a_change_is_seen(name, way):
    loss, params, batch, change = CHANGES[name]()
    d = tree.map(lambda p: p.cos(), params)
    quadratic = quadratic_along(WAYS[way](loss))
    quadratic(params, d, *batch)
    change()
    got = quadratic(params, d, *batch)
    expected, scale = double_backward(loss, params, d, *batch)
    for number, true in zip(got, expected, strict=True):
        assert_close(number, true, 1e-9, 1 + scale)


def test_the_table_is_large_enough_to_be_one():
    assert len(CHANGES) >= 120
