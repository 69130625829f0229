"""Laws of Taylor polynomials and spans that hold for every loss, point and directions; errors as in ``test_laws``."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alpha_func import quadratic_along, tree
from alpha_func.transforms import quadratic_by_group, quadratic_in_span, taylor_along
from tests.helpers.random_losses import factors, problems
from tests.helpers.reference import assert_close, dense, flat
from tests.properties.test_laws import TOL, Scales, assert_same_line, combined

law = settings(deadline=None, derandomize=True, max_examples=25)


@law
@given(problems())
def test_the_span_of_one_direction_is_its_quadratic(problem):
    scales = Scales(problem.loss, problem.params, problem.d)
    span = quadratic_in_span(problem.loss)(problem.params, [problem.d])
    line = quadratic_along(problem.loss)(problem.params, problem.d)
    assert_same_line(type(line)(span.value, span.slopes[0], span.curvature[0, 0]), line, scales)
    assert_close(span.minimizer()[0], line.alpha, TOL, scales.alpha)


@law
@given(problems(), factors, factors)
def test_a_line_of_the_span_is_its_own_quadratic(problem, a, b):
    assume(flat(problem.d).numel() > 1)
    params, d, e = problem.params, problem.d, problem.e
    span = quadratic_in_span(problem.loss)(params, [d, e])
    c = torch.tensor([a, b], dtype=torch.float64)
    line = quadratic_along(problem.loss)(params, combined(a, d, b, e))
    truth = dense(problem.loss, params)
    size = abs(a) * tree.norm(d) + abs(b) * tree.norm(e)
    assert_close(c @ span.slopes, line.slope, TOL, size * truth.gradient.norm())
    assert_close(c @ span.curvature @ c, line.curvature, TOL, size**2 * torch.linalg.matrix_norm(truth.hessian))


@law
@given(problems(), factors)
def test_derivatives_scale_with_the_powers_of_the_length(problem, c):
    verb = taylor_along(problem.loss)
    once, stretched = (verb(problem.params, tree.scale(a, problem.d)) for a in (1, c))
    scale = max(abs(x) * tree.norm(problem.d) ** -j for j, x in enumerate(once.derivatives[1:], 1))
    for j, (x, y) in enumerate(zip(once.derivatives[1:], stretched.derivatives[1:], strict=True), 1):
        assert_close(y / c**j, x, 1e-10, scale * tree.norm(problem.d) ** j)  # the third of terms that may cancel


@law
@given(problems(kinds=("polynomial",)), st.floats(-3, 3))
def test_the_taylor_polynomial_of_a_polynomial_is_the_loss_and_ends(problem, alpha):
    found = taylor_along(problem.loss, order=5)(problem.params, problem.d)
    scale = 1 + sum(abs(x) * max(1, abs(alpha)) ** j for j, x in enumerate(found.derivatives))
    assert_close(found(alpha), problem.loss(tree.axpy(alpha, problem.d, problem.params)), TOL, scale)
    assert found.higher[2] == 0


@law
@given(problems())
def test_the_minimizer_solves_for_the_slopes(problem):
    assume(flat(problem.d).numel() > 1)
    span = quadratic_in_span(problem.loss)(problem.params, [problem.d, problem.e])
    c = span.minimizer(damping=0.5)
    left = (span.curvature + 0.5 * span.gram) @ c + span.slopes
    scale = torch.linalg.matrix_norm(span.curvature + 0.5 * span.gram) * c.norm() + span.slopes.norm()
    assert_close(left.norm(), torch.zeros(()), 1e-10, scale)


@law
@given(problems())
def test_the_groups_of_a_quadratic_sum_to_it(problem):
    found = quadratic_by_group(problem.loss, interactions=True)(problem.params, problem.d)
    scales = Scales(problem.loss, problem.params, problem.d)
    assert_same_line(found.quadratic, quadratic_along(problem.loss)(problem.params, problem.d), scales)
