"""The noise scale: against dense closed forms, against the best steps themselves, and what it refuses."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alpha_func import capture, functional_loss, tree
from alpha_func.data_sets import noise_scale
from alpha_func.errors import BatchDependenceWarning
from tests.helpers.cases import line, mlp, mse_net
from tests.helpers.reference import dense

law = settings(deadline=None, derandomize=True, max_examples=25)


def per_example(case):
    """The gradients of single examples (n, p), and the Hessian of all, dense."""
    n = len(case.args[0])
    grads = [dense(case.loss, case.params, *(a[i : i + 1] for a in case.args)).gradient for i in range(n)]
    return torch.stack(grads), dense(case.loss, case.params, *case.args).hessian


def by_definition(grads, hessian, size=1):
    """tr(HΣ), GᵀHG, tr(Σ), ‖G‖² without bias, from the covariance matrix itself."""
    n, g = len(grads), grads.mean(0)
    covariance = size * torch.cov(grads.T)
    traces = (hessian @ covariance).trace(), covariance.trace()
    forms = g @ hessian @ g - traces[0] / (n * size), g @ g - traces[1] / (n * size)
    return torch.stack([traces[0], forms[0], traces[1], forms[1]])


def small(batch=12):
    return mse_net(batch=batch, activation=nn.Tanh)


@pytest.mark.parametrize("wrap", [lambda loss: loss, capture], ids=["plain", "captured"])
def test_the_moments_are_those_of_the_dense_covariance_and_hessian(wrap):
    case = small()
    grads, hessian = per_example(case)
    found = noise_scale(wrap(case.loss))(case.params, case.args)
    expected = by_definition(grads, hessian)
    assert torch.allclose(found.moments, expected, rtol=1e-10, atol=0)
    assert found.value.value == pytest.approx(float(expected[0] / expected[1]), rel=1e-10)
    assert found.simple.value == pytest.approx(float(expected[2] / expected[3]), rel=1e-10)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_best_rate_of_least_squares_is_as_predicted_over_all_batches(size):
    """The loss is a parabola, and all batches are drawn: neither its shape nor chance is left to differ."""
    torch.manual_seed(0)
    case = line(nn.Linear(3, 2), nn.MSELoss(), torch.randn(5, 3), torch.randn(5, 2))
    found = noise_scale(case.loss, whole=True)(case.params, case.args)
    gradient = torch.func.grad(case.loss)
    drawn = [gradient(case.params, *(a[list(some)] for a in case.args)) for some in product(range(5), repeat=size)]

    def mean_after(rate):
        return torch.stack([case.loss(tree.axpy(-rate, g, case.params), *case.args) for g in drawn]).mean()

    before, one, two = (mean_after(rate) for rate in (0.0, 1.0, 2.0))
    slope, curvature = 2 * one - 1.5 * before - two / 2, before - 2 * one + two
    assert found.rate(size).value == pytest.approx(float(-slope / curvature), rel=1e-10)
    assert found.simple_rate(size).value != pytest.approx(float(-slope / curvature), rel=1e-2)


def test_error_bars_are_the_jackknife_s_of_the_estimate_made_anew():
    case = small()
    grads, hessian = per_example(case)
    found = noise_scale(case.loss)(case.params, case.args)
    without = torch.stack([by_definition(torch.cat([grads[:i], grads[i + 1 :]]), hessian) for i in range(len(grads))])
    assert torch.allclose(found.without, without, rtol=1e-10, atol=0)
    for estimate, each in (
        (found.value, without[:, 0] / without[:, 1]),
        (found.rate(5), without[:, 3] / (without[:, 1] + without[:, 0] / 5)),
    ):
        variance = (len(each) - 1) / len(each) * (each - each.mean()).square().sum()
        assert estimate.error == pytest.approx(float(variance.sqrt()), rel=1e-10)


@pytest.mark.parametrize("chunk_size", [16, 3])
def test_pieces_of_many_examples_are_counted_in_examples(chunk_size):
    case = small()
    grads, hessian = per_example(case)
    found = noise_scale(case.loss, size=3, chunk_size=chunk_size)(case.params, case.args)
    expected = by_definition(grads.unflatten(0, (-1, 3)).mean(1), hessian, size=3)
    assert torch.allclose(found.moments, expected, rtol=1e-10, atol=0)


def test_the_hessian_may_be_of_other_examples():
    case, other = small(), small(20)
    grads, _ = per_example(case)
    found = noise_scale(case.loss)(case.params, case.args, other.args)
    expected = by_definition(grads, dense(case.loss, case.params, *other.args).hessian)
    assert torch.allclose(found.moments, expected, rtol=1e-10, atol=0)


def test_one_examples_best_step_over_a_data_set_is_the_mean_quadratics():
    """Every batch of one, once: the mean slope over the mean curvature along −gᵢ; nothing is estimated."""
    case = small()
    grads, hessian = per_example(case)
    found = noise_scale(case.loss, whole=True)(case.params, case.args)
    g, curvatures = grads.mean(0), torch.stack([each @ hessian @ each for each in grads])
    rate = found.rate(1)
    assert rate.value == pytest.approx(float(g @ g / curvatures.mean()), rel=1e-10)
    assert rate.error == 0
    assert found.rate(math.inf).value == pytest.approx(float(g @ g / (g @ hessian @ g)), rel=1e-10)
    assert found.moments[2] == pytest.approx(float(torch.cov(grads.T, correction=0).trace()), rel=1e-10)


def test_cross_entropy_and_batches_by_name_are_taken():
    torch.manual_seed(0)
    case = line(mlp([4, 5, 3]), nn.CrossEntropyLoss(), torch.randn(9, 4), torch.arange(9) % 3)
    grads, hessian = per_example(case)
    found = noise_scale(case.loss)(case.params, {"inputs": case.args[0], "targets": case.args[1]})
    assert torch.allclose(found.moments, by_definition(grads, hessian), rtol=1e-10, atol=0)


# Of a parabola ½(θ − y)ᵀA(θ − y) with y from a population everything is known


def parabola(params, y):
    return ((params - y) ** 2 * SCALES).sum(-1).mean() / 2


SCALES = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
NOISE = torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)


@law
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.integers(0, 10**6))
def test_estimates_are_within_their_error_bars_of_the_population(theta, seed):
    theta = torch.tensor(theta, dtype=torch.float64) + 4
    y = NOISE * torch.randn(400, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = noise_scale(parabola)(theta, y)
    g, variance = SCALES * theta, (SCALES * NOISE) ** 2
    truth, proxy = (SCALES * variance).sum() / (SCALES * g**2).sum(), variance.sum() / (g**2).sum()
    assert abs(found.value.value - float(truth)) < 5 * found.value.error
    assert abs(found.simple.value - float(proxy)) < 5 * found.simple.error


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_predicted_rate_is_the_best_one_over_batches(batch_size):
    """Over many batches of B from the population, the mean loss after θ − εg is least at ε(B), in closed form in ε."""
    g = torch.Generator().manual_seed(0)
    theta = torch.tensor([10.0, 0.5, 0.02], dtype=torch.float64)
    examples = NOISE * torch.randn(100_000, 3, generator=g, dtype=torch.float64)
    found = noise_scale(parabola, chunk_size=100_000)(theta, examples, examples[:1])  # H is every example's
    y = NOISE * torch.randn(200_000, batch_size, 3, generator=g, dtype=torch.float64)
    steps = SCALES * (theta - y.mean(1))
    slope, curvature = (steps * SCALES * theta).sum(-1).mean(), (steps**2 * SCALES).sum(-1).mean()
    assert found.rate(batch_size).value == pytest.approx(float(slope / curvature), rel=0.05)
    assert found.gain(batch_size).value == pytest.approx(float(slope**2 / curvature / 2), rel=0.05)
    assert found.simple_rate(batch_size).value > 2 * float(slope / curvature)  # the noise lies where it bends


@law
@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_scales_of_the_loss_and_of_the_batch_size(c, batch_size):
    theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    y = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    once, scaled = noise_scale(parabola)(theta, y), noise_scale(lambda p, y: c * parabola(p, y))(theta, y)
    assert scaled.value.value == pytest.approx(once.value.value, rel=1e-11)
    assert c * scaled.rate(batch_size).value == pytest.approx(once.rate(batch_size).value, rel=1e-11)
    half = once.rate(abs(once.value.value)).value if once.value.value > 0 else math.nan
    assert math.isnan(half) or half == pytest.approx(once.rate(math.inf).value / 2, rel=1e-11)


def test_it_is_printed_with_its_error_bars():
    case = small()
    assert str(noise_scale(case.loss)(case.params, case.args)).count("±") == 3


# Bad input


def weighted():
    torch.manual_seed(0)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 3.0], dtype=torch.float64))
    return line(mlp([3, 2]), criterion, torch.randn(9, 3), torch.arange(9) % 2)


def test_a_loss_that_is_no_mean_over_examples_is_pointed_out():
    case = weighted()
    with pytest.warns(BatchDependenceWarning, match="examples depend on each other, or are weighted"):
        noise_scale(case.loss)(case.params, case.args)


BAD = {
    "size": (lambda case: noise_scale(case.loss, size=0), r"size is 0: give a whole number of at least 1"),
    "chunk_size": (lambda case: noise_scale(case.loss, chunk_size=1.5), r"chunk_size is 1.5"),
    "a remainder": (
        lambda case: noise_scale(case.loss, size=5)(case.params, case.args),
        r"batch has 12 examples and size is 5: expected at least 3 pieces of equal size",
    ),
    "two pieces": (lambda case: noise_scale(case.loss, size=6)(case.params, case.args), r"expected at least 3 pieces"),
    "batch size": (lambda case: noise_scale(case.loss)(case.params, case.args).rate(0), r"batch_size is 0: give"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_noise_scale_is_refused(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make(small())


def test_examples_that_depend_on_each_other_are_refused():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    loss, params = functional_loss(net, nn.MSELoss())
    with pytest.raises(
        ValueError, match=r"the gradient of one example is not defined through BatchNorm1d '1'.*call module\.eval\(\)"
    ):
        noise_scale(loss)(params, (torch.randn(4, 3), torch.randn(4, 3)))
