"""A loss that changes between two calls is measured as it is now, captured or not, or refused."""

import pytest

from alpha_func import capture, quadratic_along, tree
from alpha_func.errors import CaptureError
from tests.capture.changes import CHANGES
from tests.helpers.reference import assert_close


def numbers(loss, params, batch, transform):
    return transform(params, tree.map(lambda p: p.cos(), params), *batch)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_or_refused(name):
    loss, params, batch, change = CHANGES[name]()
    captured = quadratic_along(capture(loss))
    plain = quadratic_along(loss)
    try:
        numbers(loss, params, batch, captured)
        change()
        got = numbers(loss, params, batch, captured)
    except CaptureError:
        return
    for number, expected in zip(got, numbers(loss, params, batch, plain), strict=True):
        assert_close(number, expected, 1e-9, 1 + abs(expected))


def test_the_table_is_large_enough_to_be_one():
    assert len(CHANGES) >= 120
