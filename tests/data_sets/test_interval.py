"""Per-example quadratics, the error bars of α*, and its bias: against loops, simulations and closed forms."""

import math

import pytest
import torch
from torch import nn

from alpha_func import Quadratic, capture, functional_loss, tree
from alpha_func.data_sets import alpha_interval, per_example_quadratics, two_batch
from alpha_func.errors import BatchDependenceWarning
from alpha_func.losses.kernels import twice_differentiable
from tests.helpers.cases import MODULES, line, mlp, mse_net
from tests.helpers.reference import assert_close, assert_quadratic, dense, double_backward, flat

# Examples

SMOOTH = sorted(set(MODULES) - {"batch_norm_train", "dropout"})


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("name", SMOOTH)
def test_examples_at_once_are_examples_one_by_one(name, chunk_size):
    case = MODULES[name]()
    got = per_example_quadratics(case.loss, chunk_size=chunk_size)(case.params, case.direction, case.args)
    n = len(case.args[0])
    assert all(number.shape == (n,) for number in got)
    d = flat(case.direction).norm()
    for i in range(n):
        one = [a[i : i + 1] for a in case.args]
        with twice_differentiable():
            truth, hd = double_backward(case.loss, case.params, case.direction, *one)
        assert_close(got.value[i], truth.value, 1e-12)
        assert_close(got.slope[i], truth.slope, 1e-12, d)
        assert_close(got.curvature[i], truth.curvature, 1e-12, d * hd)


def test_a_captured_loss_and_a_strategy_give_the_same_examples():
    case = mse_net(batch=5, activation=nn.Tanh)
    expected = [
        dense(case.loss, case.params, *(a[i : i + 1] for a in case.args)).quadratic_along(case.direction)
        for i in range(5)
    ]
    for way in (
        per_example_quadratics(capture(case.loss)),
        per_example_quadratics(case.loss, strategy="reverse_over_reverse"),
    ):
        got = way(case.params, case.direction, case.args)
        for i in range(5):
            for number, truth in zip(got, expected[i], strict=True):
                assert_close(number[i], truth, 1e-11)


def test_the_mean_of_the_examples_is_the_batch():
    case = mse_net(activation=nn.Tanh)
    got = per_example_quadratics(case.loss)(case.params, case.direction, case.args)
    mean = Quadratic(*(number.mean() for number in got))
    assert_quadratic(mean, dense(case.loss, case.params, *case.args), case.direction, 1e-12)


def test_a_batch_may_be_a_mapping():
    case = mse_net(batch=4)
    along = per_example_quadratics(case.loss)
    by_name = along(case.params, case.direction, {"inputs": case.args[0], "targets": case.args[1]})
    assert torch.equal(by_name.slope, along(case.params, case.direction, case.args).slope)


@pytest.mark.parametrize("name", ["batch_norm_train", "dropout"])
def test_an_example_without_a_loss_of_its_own_is_refused(name):
    case = MODULES[name]()
    with pytest.raises(
        ValueError, match=r"the loss of one example is not defined through .* in train mode: call module\.eval\(\)"
    ):
        per_example_quadratics(case.loss)(case.params, case.direction, case.args)


def test_examples_that_are_weighted_or_depend_on_each_other_are_told_of():
    torch.manual_seed(0)
    weights = torch.tensor([0.2, 3.0], dtype=torch.float64)
    case = line(mlp([3, 2]), nn.CrossEntropyLoss(weight=weights), torch.randn(9, 3), torch.arange(9) % 2)
    along = per_example_quadratics(case.loss)
    with pytest.warns(BatchDependenceWarning, match=r"alpha_interval their weights, weight="):
        got = along(case.params, case.direction, case.args)
    found = alpha_interval(got, weight=weights[case.args[1]])
    truth = dense(case.loss, case.params, *case.args).quadratic_along(case.direction)
    assert found.alpha == pytest.approx(float(truth.alpha), rel=1e-12)


# Intervals

MEANS = torch.tensor([-3.0, 2.0], dtype=torch.float64)
MIX = torch.tensor([[2.0, 0.0], [-1.5, 1.0]], dtype=torch.float64)  # slope and curvature are correlated


def sample(n, generator, *, skewed=False):
    """Slopes and curvatures with means MEANS; skewed: from a centred exponential."""
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    if skewed:
        noise = -torch.rand(n, 2, generator=generator, dtype=torch.float64).log() - 1
    slope, curvature = (MEANS + noise @ MIX.T).unbind(1)
    return Quadratic(slope, slope, curvature)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("method", ["delta", "fieller"])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_holds_the_truth_as_often_as_it_says(method, level, skewed):
    g = torch.Generator().manual_seed(0)
    samples, truth = 1500, float(-MEANS[0] / MEANS[1])
    found = [alpha_interval(sample(200, g, skewed=skewed), level, method=method) for _ in range(samples)]
    coverage = sum(i.low <= truth <= i.high for i in found) / samples
    error = math.sqrt(level * (1 - level) / samples)
    assert abs(coverage - level) < 3 * error + 0.01, coverage  # 0.01: n = 200 is not infinite


def test_the_bootstrap_interval_holds_the_truth_as_often_as_it_says():
    g = torch.Generator().manual_seed(1)
    samples, truth = 400, float(-MEANS[0] / MEANS[1])
    found = [alpha_interval(sample(150, g), 0.9, bootstrap=300, seed=i).bootstrap for i in range(samples)]
    coverage = sum(low <= truth <= high for low, high in found) / samples
    assert abs(coverage - 0.9) < 3 * math.sqrt(0.9 * 0.1 / samples) + 0.015, coverage


def test_the_interval_of_a_network_holds_the_α_of_its_population():
    """Examples of a linear regression: direction fixed, the population's slope and curvature in closed form."""
    torch.manual_seed(0)
    θ, d, truth_θ = (torch.randn(4, dtype=torch.float64) for _ in range(3))
    slope, curvature = 2 * d @ (θ - truth_θ), 2 * d @ d  # inputs standard normal
    d = -slope.sign() * d
    alpha = float(abs(slope) / curvature)

    def loss(params, x, y):
        return ((x @ params - y) ** 2).mean()

    along, inside = per_example_quadratics(capture(loss)), 0
    for _ in range(300):
        x = torch.randn(300, 4, dtype=torch.float64)
        y = x @ truth_θ + 0.5 * torch.randn(300, dtype=torch.float64)
        found = alpha_interval(along(θ, d, (x, y)), 0.9)
        inside += found.low <= alpha <= found.high
    assert 0.84 <= inside / 300 <= 0.95, inside / 300


def test_the_standard_error_is_that_of_repeated_samples():
    g = torch.Generator().manual_seed(2)
    found = [alpha_interval(sample(400, g)) for _ in range(500)]
    spread = torch.tensor([i.alpha for i in found]).std()
    assert found[0].standard_error == pytest.approx(float(spread), rel=0.15)


def test_the_formula_is_the_textbook_s_for_a_ratio():
    q = sample(50, torch.Generator().manual_seed(3))
    found = alpha_interval(q)
    cov = torch.cov(torch.stack([q.slope, q.curvature])) / 50
    gradient = torch.tensor([-1 / q.curvature.mean(), q.slope.mean() / q.curvature.mean() ** 2])
    assert found.standard_error == pytest.approx(float((gradient @ cov @ gradient).sqrt()), rel=1e-12)
    assert found.high - found.low == pytest.approx(2 * 1.959963985 * found.standard_error, rel=1e-9)


def test_integer_weights_are_repeated_examples():
    q = sample(40, torch.Generator().manual_seed(4))
    w = torch.arange(40) % 3
    repeated = Quadratic(*(number.repeat_interleave(w) for number in q))
    assert alpha_interval(q, weight=w).alpha == pytest.approx(alpha_interval(repeated).alpha, rel=1e-12)


@pytest.mark.parametrize("curvature", [0.05, -2.0])
@pytest.mark.parametrize("method", ["delta", "fieller"])
def test_a_curvature_not_significantly_positive_bounds_nothing(method, curvature):
    q = sample(100, torch.Generator().manual_seed(5))
    q = q._replace(curvature=q.curvature - 2 + curvature)
    found = alpha_interval(q, method=method, bootstrap=200)
    assert (found.low, found.high, found.bounded) == (-math.inf, math.inf, False)
    assert "not significantly positive" in str(found)
    assert max(map(abs, found.bootstrap)) == math.inf


def test_fieller_and_delta_agree_where_the_curvature_is_certain():
    q = sample(100_000, torch.Generator().manual_seed(6))
    delta, fieller = (alpha_interval(q, method=method) for method in ("delta", "fieller"))
    assert fieller.low == pytest.approx(delta.low, rel=1e-4)
    assert fieller.high == pytest.approx(delta.high, rel=1e-4)


def test_resamples_leave_the_global_generator_alone_and_follow_the_seed():
    q = sample(50, torch.Generator().manual_seed(7))
    before = torch.get_rng_state()
    first = alpha_interval(q, bootstrap=100, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert first == alpha_interval(q, bootstrap=100, seed=1)
    assert first.bootstrap != alpha_interval(q, bootstrap=100, seed=2).bootstrap


ONES = torch.ones(3)
GOOD = Quadratic(ONES, ONES, ONES)
BAD = {
    "one number": (Quadratic(*torch.ones(3)), {}, ValueError, r"shape \(\): expected \(n,\)"),
    "a tensor": (ONES, {}, TypeError, r"must be a Quadratic"),
    "nan": (GOOD._replace(slope=torch.tensor([1.0, math.nan, 1.0])), {}, ValueError, r"slope of example 1 is nan"),
    "level": (GOOD, {"level": 95}, ValueError, r"level is 95: .*0\.95"),
    "method": (GOOD, {"method": "exact"}, ValueError, r"choose from delta, fieller"),
    "bootstrap": (GOOD, {"bootstrap": 0}, ValueError, r"bootstrap is 0"),
    "weight": (GOOD, {"weight": torch.ones(2)}, ValueError, r"weight of shape \(2,\): expected \(3,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_interval_is_refused(name):
    q, options, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        alpha_interval(q, **options)


# Bias


def test_two_batches_are_two_dense_quadratics_along_the_first_s_direction():
    case = mse_net(activation=nn.Tanh)
    first, second = ([a[:20] for a in case.args], [a[20:] for a in case.args])
    for loss in (case.loss, capture(case.loss)):
        step = two_batch(loss)(case.params, first, second)
        truth = dense(case.loss, case.params, *first)
        assert torch.allclose(flat(step.direction), -truth.gradient, rtol=1e-12)
        assert_quadratic(step.same, truth, step.direction, 1e-12)
        assert_quadratic(step.held_out, dense(case.loss, case.params, *second), step.direction, 1e-12)


def test_a_batchs_own_slope_is_biased_by_its_noise_and_a_held_out_is_not():
    """Mean estimation: L = ½E‖θ − y‖², g = θ − mean(y) of n; E[dᵀg] on the same batch is −‖∇L‖² − tr(Σ)/n."""
    g = torch.Generator().manual_seed(0)
    θ, n, repeats = torch.full((10,), 0.3, dtype=torch.float64), 20, 400

    def loss(params, y):
        return 0.5 * (params - y).square().sum(-1).mean()

    step, slopes = two_batch(loss), []
    for _ in range(repeats):
        y = torch.randn(2, n, 10, generator=g, dtype=torch.float64)
        found = step(θ, (y[0],), (y[1],))
        slopes.append((found.same.slope, found.held_out.slope))
    same, held_out = torch.tensor(slopes, dtype=torch.float64).mean(0).tolist()
    true = -float(θ @ θ)
    assert same == pytest.approx(true - 10 / n, rel=0.05)
    assert held_out == pytest.approx(true, rel=0.05)


def test_a_direction_of_the_caller_s_is_taken():
    case = mse_net()
    step = two_batch(case.loss, lambda grads: tree.scale(-2.0, grads))(case.params, case.args, case.args)
    assert torch.equal(flat(step.direction), -2 * flat(step.grads))
    assert_close(step.held_out.alpha, step.same.alpha, 1e-12)


def test_examples_need_a_module_in_eval_mode_only_where_it_matters():
    loss, params = functional_loss(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), nn.MSELoss())
    got = per_example_quadratics(loss)(params, params, (torch.randn(4, 3), torch.randn(4, 3)))
    assert got.value.shape == (4,)
