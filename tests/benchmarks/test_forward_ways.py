"""Curvature by forward passes: right on a parabola, and as wrong as its third derivative elsewhere."""

import pytest

from benchmarks.forward_ways import critical_rate, gen, pal

SLOPE, CURVATURE = -4.0, 8.0


def parabola(alpha):
    return 1.0 + SLOPE * alpha + CURVATURE * alpha**2 / 2


def cubic(alpha):
    return parabola(alpha) + 6.0 * alpha**3 / 6


@pytest.mark.parametrize("p", [1e-3, 0.1, 1.0])
def test_on_a_parabola_gen_and_pal_are_exact_at_every_probe(p):
    assert gen(parabola, p) == pytest.approx((SLOPE, CURVATURE), rel=1e-9)
    assert pal(parabola, SLOPE, 1.0, p) == pytest.approx(CURVATURE, rel=1e-9)


@pytest.mark.parametrize("p", [1e-3, 0.01, 0.7, 5.0])
def test_on_a_parabola_the_critical_rate_is_twice_the_best(p):
    assert critical_rate(parabola, p, tolerance=1e-6) == pytest.approx(1.0, rel=1e-5)
    assert critical_rate(parabola, p) == pytest.approx(1.0, rel=1 / 16)


def test_a_third_derivative_is_in_the_slope_of_gen_and_curvature_of_pal():
    p = 0.1
    assert gen(cubic, p) == pytest.approx((SLOPE + 6.0 * p**2 / 6, CURVATURE), rel=1e-9)
    assert pal(cubic, SLOPE, 1.0, p) == pytest.approx(CURVATURE + 2 * 6.0 * p / 6, rel=1e-9)


def test_a_critical_rate_is_bracketed_in_a_few_looks():
    looks = []
    critical_rate(lambda alpha: looks.append(alpha) or parabola(alpha), 0.3)
    assert len(looks) <= 9
