"""Step rules: laws on every quadratic, each rule against a plain loop of its source, and what they refuse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from alpha_func import Quadratic, tree
from alpha_func.step_rules import accepts, armijo, cdat, damped, greedy, pal, polyak, trusted

law = settings(deadline=None, derandomize=True, max_examples=60)
sizes = st.floats(1e-3, 1e3)
FOUND = {
    "greedy": greedy,
    "damped": lambda **first: damped(0.5, beta=0.9, **first),
    "cdat": lambda **first: cdat(2.0, beta=0.9, **first),
    "polyak": lambda **first: polyak(**first),
    "pal": lambda **first: pal(**first),
    "armijo": lambda **first: armijo(**first),
    "trusted": lambda first=1.0: trusted(greedy(first=first), radius=10.0),
}
every_rule = pytest.mark.parametrize("name", FOUND)
SAFE = ("cdat", "polyak", "pal", "armijo")  # never uphill


def q(value, slope, curvature):
    return Quadratic(*(torch.tensor(float(x), dtype=torch.float64) for x in (value, slope, curvature)))


def alphas(rule, quadratics):
    state, found = rule.init(), []
    for quadratic in quadratics:
        alpha, state = rule.update(quadratic, state)
        found.append(float(alpha))
    return found


def first_alpha(rule, quadratic):
    return alphas(rule, [quadratic])[0]


# Laws


@law
@given(sizes, sizes, sizes)
def test_greedy_is_where_the_quadratic_is_flat(value, fall, curvature):
    quadratic = q(value, -fall, curvature)
    alpha = first_alpha(greedy(), quadratic)
    assert abs(-fall + curvature * alpha) <= 1e-12 * fall


@law
@given(sizes, sizes, sizes, st.floats(0.1, 3))
def test_cdat_is_sigma_times_greedy_on_a_convex_line_that_descends(value, fall, curvature, sigma):
    quadratic = q(value, -fall, curvature)
    assert first_alpha(cdat(sigma), quadratic) == pytest.approx(sigma * first_alpha(greedy(), quadratic), rel=1e-14)


@law
@given(sizes, sizes, sizes)
def test_cdat_of_two_is_where_the_quadratic_promises_nothing(value, fall, curvature):
    quadratic = q(value, -fall, curvature)
    alpha = first_alpha(cdat(2.0), quadratic)
    assert abs(float(quadratic(alpha)) - value) <= 1e-12 * (value + fall * alpha)


@law
@given(sizes, sizes, sizes, st.floats(0.01, 100))
def test_a_longer_direction_has_steps_shorter_by_as_much(value, fall, curvature, c):
    once, stretched = q(value, -fall, curvature), q(value, -fall * c, curvature * c * c)
    for rule, in_units_of_c in (
        (greedy(), greedy()),
        (damped(0.5), damped(0.5)),
        (cdat(), cdat()),
        (polyak(), polyak()),
        (pal(), pal(measuring_step=0.1 / c, largest=10**0.5 / c)),
        (trusted(greedy()), trusted(greedy(), radius=1 / c)),
    ):
        assert first_alpha(in_units_of_c, stretched) * c == pytest.approx(first_alpha(rule, once), rel=1e-12)


@law
@given(sizes, sizes, sizes.flatmap(lambda x: st.sampled_from([x, -x, 0.0])))
def test_no_safe_rule_steps_to_where_the_quadratic_has_risen(value, fall, curvature):
    quadratic = q(value, -fall, curvature)
    for name in ("cdat", "pal", "armijo"):
        alpha = first_alpha(FOUND[name](), quadratic)
        assert float(quadratic(alpha)) <= value + 1e-9 * (value + fall * alpha)


@law
@given(sizes, sizes, sizes, st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([1e-4, 0.1, 0.5]))
def test_armijo_is_backtracking_in_a_loop(value, fall, curvature, shrink, decrease):
    bound = 2 * (1 - decrease) * fall / curvature
    alpha = 4.0
    while alpha > bound * (1 + 1e-13):
        alpha *= shrink
    found = first_alpha(armijo(first=4.0, shrink=shrink, decrease=decrease), q(value, -fall, curvature))
    assert found == pytest.approx(alpha, rel=1e-9)


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=8))
@law
def test_cdat_averages_numerator_and_denominator(lines):
    n = d = 0.0
    for fall, curvature in lines:
        n, d = 0.9 * n + 0.1 * fall, 0.9 * d + 0.1 * curvature
    found = alphas(cdat(1.5, beta=0.9), [q(1, -fall, curvature) for fall, curvature in lines])
    assert found[-1] == pytest.approx(1.5 * n / d, rel=1e-12)


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=8))
@law
def test_damped_averages_the_minima_without_the_bias_of_the_beginning(lines):
    minima = [fall / curvature for fall, curvature in lines]
    weights = [0.9 ** (len(minima) - k) for k in range(len(minima))]
    mean = sum(w * m for w, m in zip(weights, minima, strict=True)) / sum(weights)
    found = alphas(damped(0.5, beta=0.9), [q(1, -fall, curvature) for fall, curvature in lines])
    assert found[-1] == pytest.approx(0.5 * mean, rel=1e-12)


# What they do where the quadratic has no minimum

NO_MINIMUM = {  # of −4α − 4α², after a first step from −4α + 4α² with α* = ½
    "greedy": 0.5,
    "damped": 0.25,
    "cdat": 1.0,
    "polyak": 0.25,  # the gap is 1
    "pal": 0.1,
    "armijo": 1.0,
    "trusted": 0.5,
}


@every_rule
def test_at_negative_curvature_a_rule_does_what_it_says(name):
    assert alphas(FOUND[name](), [q(1, -4, 8), q(1, -4, -8)])[-1] == pytest.approx(NO_MINIMUM[name])


@every_rule
@pytest.mark.parametrize("curvature", [0.0, -2.0])
def test_a_first_step_without_a_minimum_is_finite_and_not_backwards(name, curvature):
    alpha = first_alpha(FOUND[name](first=0.3), q(1, -4, curvature))
    assert math.isfinite(alpha)
    assert alpha > 0


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize("curvature", [3.0, 0.0, -3.0])
def test_up_an_ascent_a_safe_rule_does_not_step(name, curvature):
    assert first_alpha(FOUND[name](), q(1, 4, curvature)) == (1.0 if (name, curvature) == ("cdat", 0.0) else 0.0)


def test_greedy_steps_back_down_an_ascent():
    assert first_alpha(greedy(), q(1, 4, 8)) == -0.5


@every_rule
@pytest.mark.parametrize("bad", [q(1, math.nan, 1), q(1, -1, math.inf), q(math.nan, math.nan, math.nan)])
def test_a_quadratic_that_is_not_finite_leaves_step_and_state(name, bad):
    rule = FOUND[name]()
    alpha, state = rule.update(q(1, -4, 8), rule.init())
    again, after = rule.update(bad, state)
    assert again == alpha
    assert after == state


# The trust region


def test_the_radius_follows_the_gain_ratio():
    rule = trusted(greedy(), radius=0.1)
    flat, state, found = q(1, -4, 1), rule.init(), []  # α* = 4, far away
    for ratio in (math.nan, 1.0, 1.0, 0.5, -1.0, 1.0, 0.005):
        alpha, state = rule.update(flat, state, ratio)
        found.append(float(alpha))
    r = 0.1 * 3.5**2
    assert found == pytest.approx([0.1, 0.35, r, r, r / 4, r / 4 * 3.5, r / 16 * 3.5])


def test_a_radius_that_bounds_nothing_does_not_grow():
    rule = trusted(greedy(), radius=1.0)
    alpha, state = rule.update(q(1, -4, 8), rule.init())
    for _ in range(5):
        alpha, state = rule.update(q(1, -4, 8), state, 1.0)  # α* = ½
    assert alpha == 0.5
    assert rule.update(q(1, -4, 1), state, 1.0)[0] == 1.0


def test_a_failure_shrinks_to_a_share_of_the_step_that_failed():
    rule = trusted(greedy(), radius=100.0)
    _, state = rule.update(q(1, -4, 8), rule.init())
    assert rule.update(q(1, -4, 8), state, -0.5)[0] == 0.125


def test_a_loop_that_takes_failures_back_ends_in_the_minimum():
    """On log cosh α* is far beyond the minimum from x = 3 on, and Newton's method diverges."""
    from alpha_func import quadratic_along
    from alpha_func.transforms import gain_ratio

    def loss(x):
        return torch.cosh(x).log()

    x, rule, ratio = torch.tensor(3.0, dtype=torch.float64), trusted(greedy()), math.nan
    state = rule.init()
    for _ in range(15):
        d = -x.sign()
        quadratic = quadratic_along(loss)(x, d)
        alpha, state = rule.update(quadratic, state, ratio)
        ratio = gain_ratio(loss)(x, d, quadratic, alpha)
        x = x + alpha * d if accepts(ratio) else x
    assert abs(x) < 1e-6


def test_what_cannot_be_told_is_accepted():
    assert [bool(accepts(ratio)) for ratio in (math.nan, 0.01, 0.0, -1.0, 2.0)] == [True, True, False, False, True]


# Purity, dtypes and vmap


@every_rule
def test_a_rule_changes_nothing_and_answers_alike(name):
    rule = FOUND[name]()
    quadratic = q(1, -4, 8)
    _, state = rule.update(quadratic, rule.init())
    kept = tree.map(float, state)
    first, second = rule.update(quadratic, state), rule.update(quadratic, state)
    assert first == second
    assert tree.map(float, state) == kept
    assert rule.init() == FOUND[name]().init()


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_has_the_dtype_of_the_quadratic(name, dtype):
    quadratic = Quadratic(*(number.to(dtype) for number in q(1, -4, 8)))
    rule = FOUND[name]()
    alpha, state = rule.update(quadratic, rule.init())
    assert alpha.dtype == dtype
    assert rule.update(quadratic, state)[0].dtype == dtype


@every_rule
def test_vmap_over_quadratics_is_a_loop(name):
    rule, slopes = FOUND[name](), torch.tensor([-4.0, 2.0, -1.0], dtype=torch.float64)
    curvatures = torch.tensor([8.0, 1.0, -3.0], dtype=torch.float64)
    many = Quadratic(torch.ones(3, dtype=torch.float64), slopes, curvatures)
    batched, state = vmap(lambda quadratic: rule.update(quadratic, rule.init()))(many)
    again = vmap(rule.update)(many, state)[0]
    for i in range(3):
        alone = Quadratic(*(number[i] for number in many))
        assert [float(batched[i]), float(again[i])] == alphas(rule, [alone, alone])


# Bad input

BAD = {
    "factor": (lambda: damped(-1), r"factor is -1: give a positive number"),
    "beta": (lambda: damped(beta=1), r"beta is 1: give a number from 0 to below 1"),
    "sigma": (lambda: cdat(math.inf), r"sigma is inf"),
    "eps": (lambda: cdat(eps=-1e-8), r"eps is -1e-08"),
    "lower": (lambda: polyak(math.nan), r"lower is nan: give the least value"),
    "largest": (lambda: polyak(largest=0), r"largest is 0"),
    "adaptation": (lambda: pal(adaptation="2"), r"adaptation is '2'"),
    "measuring step": (lambda: pal(measuring_step=0), r"measuring_step is 0"),
    "shrink": (lambda: armijo(shrink=1.0), r"shrink is 1.0"),
    "no shrink": (lambda: armijo(shrink=0.0), r"shrink is 0.0"),
    "decrease": (lambda: armijo(decrease=-0.1), r"decrease is -0.1"),
    "first": (lambda: greedy(first=math.nan), r"first is nan"),
    "radius": (lambda: trusted(greedy(), radius=True), r"radius is True"),
    "cutoffs": (lambda: trusted(greedy(), low=0.5, high=0.2), r"expected low < high"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_rule_that_cannot_be_is_refused(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("quadratic", [torch.ones(3), Quadratic(1.0, -1.0, 1.0), None])
def test_what_is_no_quadratic_is_refused(quadratic):
    rule = greedy()
    with pytest.raises(TypeError, match="quadratic must be a Quadratic of tensors, got"):
        rule.update(quadratic, rule.init())


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: polyak("a"), "lower is 'a'"),
        (lambda: trusted(greedy), "rule must be a StepRule"),
        (lambda: greedy().update(q(1, -2, 3), None), "state is not this rule's"),
        (lambda: trusted(greedy()).update(q(1, -2, 3), greedy().init()), "state is not this rule's"),
        (lambda: trusted(greedy()).update(q(1, -2, 3), trusted(greedy()).init(), None), "gain_ratio must be a number"),
    ],
)
def test_what_is_no_number_no_rule_or_no_state_of_it_is_refused(ask, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ask()
