import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from alpha_func import Quadratic

number = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))


def quadratic(*numbers):
    return Quadratic(*(torch.tensor(n, dtype=torch.float64) for n in numbers))


@given(number, number, number.filter(bool), number)
def test_alpha_is_stationary_and_minimum_its_value(value, slope, curvature, offset):
    q = quadratic(value, slope, curvature)
    vertex = value - slope**2 / (2 * curvature)
    scale = abs(value) + abs(slope**2 / curvature) + abs(curvature * offset**2)
    assert abs(q.minimum - vertex) <= 1e-12 * (scale + 1)
    assert abs(q(q.alpha + offset) - (vertex + curvature * offset**2 / 2)) <= 1e-12 * (scale + abs(slope * offset) + 1)
    assert bool(q.is_minimum) == (curvature > 0)
    assert bool(q.is_descent) == (slope < 0)


def test_alpha_follows_ieee_where_there_is_no_vertex():
    assert math.isnan(quadratic(1.0, 0.0, 0.0).alpha)
    assert quadratic(1.0, -1.0, 0.0).alpha == math.inf
    assert quadratic(1.0, 1.0, 0.0).alpha == -math.inf
    assert math.isnan(quadratic(1.0, math.nan, 1.0).alpha)


def test_negative_curvature_is_a_result_not_an_error():
    q = quadratic(1.0, -2.0, -4.0)
    assert (q.alpha.item(), bool(q.is_minimum)) == (-0.5, False)


def test_fields_may_be_batched():
    q = Quadratic(torch.zeros(3), torch.tensor([-1.0, -2.0, -3.0]), torch.ones(3))
    assert q.alpha.tolist() == [1.0, 2.0, 3.0]
    assert q(torch.ones(3)).tolist() == [-0.5, -1.5, -2.5]
