"""The gain ratio at any α: against the loss itself, a closed form, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alpha_func import Quadratic, capture, quadratic_along, tree
from alpha_func.transforms import gain_ratio
from tests.helpers.cases import mse_net


@pytest.mark.parametrize("wrap", [lambda loss: loss, capture], ids=["plain", "captured"])
@pytest.mark.parametrize("alpha", [1.0, -0.3, 0.01])
def test_the_gain_ratio_is_the_losss_gain_over_what_the_quadratic_says(wrap, alpha):
    case = mse_net(activation=nn.Tanh)
    loss = wrap(case.loss)
    quadratic = quadratic_along(loss)(case.params, case.direction, *case.args)
    found = gain_ratio(loss)(case.params, case.direction, quadratic, alpha, *case.args)
    gained = quadratic.value - case.loss(tree.axpy(alpha, case.direction, case.params), *case.args)
    assert float(found) == pytest.approx(float(gained / (quadratic.value - quadratic(alpha))), rel=1e-10)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.floats(0.05, 20), st.floats(-5, 5).filter(lambda x: abs(x) > 0.1))
def test_of_a_quadratic_loss_it_is_one_at_every_alpha(curvature, alpha):
    x, d = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([0.5, 1.5], dtype=torch.float64)

    def loss(x):
        return curvature * (x**2).sum() / 2 + 3

    quadratic = quadratic_along(loss)(x, d)
    ratio = gain_ratio(loss)(x, d, quadratic, alpha)
    promise = abs(float(quadratic.value - quadratic(alpha)))
    if math.isfinite(ratio):
        assert abs(float(ratio) - 1) <= 1e-13 * (1 + float(quadratic.value) / promise) * (1 + alpha**2)


def test_where_the_rounding_of_the_loss_hides_the_gain_it_is_nan():
    quadratic = Quadratic(*torch.tensor([1.0, -1e-8, 0.0]))
    assert math.isnan(quadratic.gain_ratio(torch.tensor(1.0)))
    assert float(quadratic.gain_ratio(torch.tensor(1.0), eps=1e-12)) == 0.0


def test_it_is_one_look_at_the_loss_for_many_alphas_under_vmap():
    case = mse_net(activation=nn.Tanh)
    quadratic = quadratic_along(case.loss)(case.params, case.direction, *case.args)
    ratio = gain_ratio(case.loss)
    alphas = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    many = torch.func.vmap(lambda a: ratio(case.params, case.direction, quadratic, a, *case.args))(alphas)
    for alpha, found in zip(alphas, many, strict=True):
        assert torch.allclose(found, ratio(case.params, case.direction, quadratic, alpha, *case.args), rtol=1e-12)


def test_a_quadratic_of_another_kind_is_refused():
    case = mse_net()
    with pytest.raises(TypeError, match="quadratic must be the Quadratic of the loss along direction, got float"):
        gain_ratio(case.loss)(case.params, case.direction, 1.0, 1.0, *case.args)
    with pytest.raises(TypeError, match="loss must be callable"):
        gain_ratio(None)
