"""Laws that hold for every loss, point, direction and tree.

Where terms cancel, an error is measured against the products of norms: ‖d‖‖g‖ for a slope, ‖d‖‖Hd‖ for a curvature,
both from the dense reference. The bound is 1e-12 of that unless a comment says why not.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alpha_func import Quadratic, grad_and_quadratic, hvp, optimal_alpha, quadratic_along, tree
from tests.helpers.random_losses import KINDS, factors, loss_of_tensors, nestings, problems, seeds, strategy_names
from tests.helpers.reference import assert_close, dense, flat

TOL = 1e-12
law = settings(deadline=None, derandomize=True, max_examples=60)


def combined(a, x, b, y):
    return tree.add(tree.scale(a, x), tree.scale(b, y))


class Scales:
    """How large the terms of slope and curvature along d are, and how large dᵀg and dᵀHd themselves."""

    def __init__(self, loss, params, d):
        self.truth, self.d = dense(loss, params), flat(d)
        self.value = 1 + abs(self.truth.value)
        self.slope = self.d.norm() * self.truth.gradient.norm()
        self.curvature = self.d.norm() * (self.truth.hessian @ self.d).norm()

    @property
    def alpha(self):
        """|α*| times the condition numbers of its numerator and denominator."""
        q = Quadratic(self.truth.value, self.d @ self.truth.gradient, self.d @ self.truth.hessian @ self.d)
        return abs(q.alpha) * (self.slope / abs(q.slope) + self.curvature / abs(q.curvature))


def assert_same_line(got, expected, scales):
    assert_close(got.value, expected.value, TOL, scales.value)
    assert_close(got.slope, expected.slope, TOL, scales.slope)
    assert_close(got.curvature, expected.curvature, TOL, scales.curvature)


@law
@given(problems(), strategy_names)
def test_the_quadratic_is_that_of_the_dense_hessian(problem, name):
    scales = Scales(problem.loss, problem.params, problem.d)
    assert_same_line(
        quadratic_along(problem.loss, strategy=name)(problem.params, problem.d),
        scales.truth.quadratic_along(problem.d),
        scales,
    )


@law
@given(problems(), strategy_names, factors)
def test_alpha_is_inverse_to_the_length_of_the_direction(problem, name, c):
    alpha = optimal_alpha(problem.loss, strategy=name)
    scales = Scales(problem.loss, problem.params, problem.d)
    stretched = alpha(problem.params, tree.scale(c, problem.d))
    assert_close(stretched * c, alpha(problem.params, problem.d), TOL, scales.alpha)


@law
@given(problems(), strategy_names, factors)
def test_curvature_is_quadratic_in_the_length_of_the_direction(problem, name, c):
    line = quadratic_along(problem.loss, strategy=name)
    once, stretched = line(problem.params, problem.d), line(problem.params, tree.scale(c, problem.d))
    scales = Scales(problem.loss, problem.params, problem.d)
    assert_same_line(Quadratic(stretched.value, stretched.slope / c, stretched.curvature / c**2), once, scales)


@law
@given(problems(), strategy_names, factors, factors)
def test_slope_is_linear_in_the_direction(problem, name, a, b):
    params, d, e = problem.params, problem.d, problem.e

    def slope(direction):
        return quadratic_along(problem.loss, strategy=name)(params, direction).slope

    gradient = dense(problem.loss, params).gradient.norm()
    scale = gradient * (abs(a) * tree.norm(d) + abs(b) * tree.norm(e))
    assert_close(slope(combined(a, d, b, e)), a * slope(d) + b * slope(e), TOL, scale)


@law
@given(problems(), strategy_names)
def test_the_hessian_is_symmetric(problem, name):
    product = hvp(problem.loss, strategy=name)
    d, e = problem.d, problem.e
    hd, he = product(problem.params, d), product(problem.params, e)
    scale = tree.norm(d) * tree.norm(he) + tree.norm(e) * tree.norm(hd)
    assert_close(tree.vdot(d, he), tree.vdot(e, hd), TOL, scale)


@law
@given(problems(), strategy_names, factors, factors)
def test_hvp_is_linear_in_the_direction(problem, name, a, b):
    product = hvp(problem.loss, strategy=name)
    hd, he = product(problem.params, problem.d), product(problem.params, problem.e)
    got = flat(product(problem.params, combined(a, problem.d, b, problem.e)))
    # ‖H‖ bounds the products that cancel inside an entry of Hd, which ‖Hd‖ alone does not
    size = torch.linalg.matrix_norm(dense(problem.loss, problem.params).hessian)
    scale = size * (abs(a) * tree.norm(problem.d) + abs(b) * tree.norm(problem.e))
    assert_close((got - flat(combined(a, hd, b, he))).norm(), torch.zeros(()), TOL, scale)


@law
@given(problems(), strategy_names)
def test_curvature_is_the_direction_times_its_hvp(problem, name):
    curvature = quadratic_along(problem.loss, strategy=name)(problem.params, problem.d).curvature
    hd = hvp(problem.loss, strategy=name)(problem.params, problem.d)
    assert_close(curvature, tree.vdot(problem.d, hd), TOL, Scales(problem.loss, problem.params, problem.d).curvature)


@law
@given(problems(kinds=("quadratic",)), strategy_names, st.floats(-10, 10))
def test_the_quadratic_of_a_quadratic_loss_is_the_loss_everywhere(problem, name, alpha):
    q = quadratic_along(problem.loss, strategy=name)(problem.params, problem.d)
    scales = Scales(problem.loss, problem.params, problem.d)
    scale = scales.value + abs(alpha) * scales.slope + alpha**2 * scales.curvature
    assert_close(q(alpha), problem.loss(tree.axpy(alpha, problem.d, problem.params)), TOL, scale)


@law
@given(problems(kinds=("quadratic",)), strategy_names)
def test_a_step_of_alpha_on_a_quadratic_loss_lands_where_the_slope_is_0(problem, name):
    q = quadratic_along(problem.loss, strategy=name)(problem.params, problem.d)
    there = tree.axpy(q.alpha, problem.d, problem.params)
    landed = quadratic_along(problem.loss, strategy=name)(there, problem.d)
    scales = Scales(problem.loss, problem.params, problem.d)
    # α* inherits the cancellation of slope and curvature, and multiplies the curvature
    assert_close(landed.slope, torch.zeros(()), TOL, scales.slope + scales.alpha * scales.curvature)
    assert_close(landed.value, q.minimum, TOL, scales.value + scales.alpha * (scales.slope + scales.curvature))


@law
@given(problems(), strategy_names, st.sampled_from(sorted(KINDS)), seeds, factors)
def test_the_quadratic_of_a_sum_of_losses_is_the_sum_of_their_quadratics(problem, name, kind, seed, c):
    other_of_tensors = loss_of_tensors(kind, seed, len(flat(problem.params)))

    def other(params):
        return c * other_of_tensors(problem.nesting.read(params))

    def total(params):
        return problem.loss(params) + other(params)

    def line(loss):
        return quadratic_along(loss, strategy=name)(problem.params, problem.d)

    parts = [Scales(loss, problem.params, problem.d) for loss in (problem.loss, other)]
    got, one, two = line(total), line(problem.loss), line(other)
    for field in Quadratic._fields:
        scale = sum(getattr(part, field) for part in parts)
        assert_close(getattr(got, field), getattr(one, field) + getattr(two, field), TOL, scale)


@law
@given(problems(), strategy_names, st.data())
def test_relabelling_and_nesting_the_tree_change_nothing(problem, name, data):
    read = problem.nesting.read
    tensors, directions = read(problem.params), read(problem.d)
    nesting = data.draw(nestings(len(tensors)))

    def nested_loss(params):
        return problem.of_tensors(nesting.read(params))

    params, d = nesting.build(tensors), nesting.build(directions)
    scales = Scales(problem.loss, problem.params, problem.d)
    expected = quadratic_along(problem.loss, strategy=name)(problem.params, problem.d)
    assert_same_line(quadratic_along(nested_loss, strategy=name)(params, d), expected, scales)
    hd = hvp(nested_loss, strategy=name)(params, d)
    assert tree.structure(hd) == tree.structure(params)
    unchanged = hvp(problem.loss, strategy=name)(problem.params, problem.d)
    for got, truth in zip(nesting.read(hd), read(unchanged), strict=True):
        assert torch.equal(got, truth), (got, truth)


@law
@given(problems(), strategy_names)
def test_every_strategy_gives_the_hvp_of_the_default_one(problem, name):
    truth = dense(problem.loss, problem.params).hessian
    expected = flat(hvp(problem.loss)(problem.params, problem.d))
    got = flat(hvp(problem.loss, strategy=name)(problem.params, problem.d))
    # ‖H‖‖d‖: as for linearity
    assert_close((got - expected).norm(), torch.zeros(()), TOL, torch.linalg.matrix_norm(truth) * tree.norm(problem.d))


@law
@given(problems(), strategy_names, factors)
def test_grad_and_quadratic_is_the_line_along_its_own_direction(problem, name, c):
    step = grad_and_quadratic(problem.loss, lambda grads: tree.scale(c, grads), strategy=name)(problem.params)
    truth = dense(problem.loss, problem.params)
    assert_close((flat(step.grads) - truth.gradient).norm(), torch.zeros(()), TOL, truth.gradient.norm())
    assert torch.equal(flat(step.direction), c * flat(step.grads))
    scales = Scales(problem.loss, problem.params, step.direction)
    expected = quadratic_along(problem.loss, strategy=name)(problem.params, step.direction)
    assert_same_line(step.quadratic, expected, scales)
