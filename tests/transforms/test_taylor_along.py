"""The derivatives along a line against closed forms, jax's jet and differences; and what is refused."""

import math

import pytest
import torch
from torch import func, nn

from alpha_func import capture, quadratic_along, tree
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.data_sets import microbatched
from alpha_func.errors import CaptureError, CaptureWarning, StrategyError
from alpha_func.taylor import Taylor
from alpha_func.transforms import taylor_along
from alpha_func.transforms.tower import derivatives_along
from tests.helpers.cases import MODULES, mse_net
from tests.helpers.reference import assert_close, extrapolated
from tests.helpers.whole import a_few_of
from tests.helpers.wrong_rules import plant

aten = torch.ops.aten
WAYS = {"plain": lambda loss: loss, "captured": lambda loss: capture(loss, strict=True)}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


# h(α) along d = 1 at x, and its derivative of order j there.
CLOSED = {
    "exp": (torch.exp, 0.3, lambda j: math.exp(0.3)),
    "sin": (torch.sin, 0.3, lambda j: math.sin(0.3 + j * math.pi / 2)),
    "log": (torch.log, 0.7, lambda j: (-1) ** (j + 1) * math.factorial(j - 1) / 0.7**j if j else math.log(0.7)),
    "reciprocal": (torch.reciprocal, 0.7, lambda j: (-1) ** j * math.factorial(j) / 0.7 ** (j + 1)),
    "x**7": (lambda x: x**7, 0.7, lambda j: math.perm(7, j) * 0.7 ** (7 - j)),
}


@every_way
@pytest.mark.parametrize("name", CLOSED)
def test_derivatives_are_those_of_the_closed_form_of(name, way):
    f, x, derivative = CLOSED[name]
    found = taylor_along(way(lambda x: f(x).sum()), order=6)(numbers(x), numbers(1.0))
    for j, got in enumerate(found.derivatives):
        assert_close(got, numbers(derivative(j))[0], 1e-12, max(1, abs(derivative(j))))


@every_way
def test_derivatives_agree_with_the_jet_of_jax(way):
    jax = pytest.importorskip("jax")
    from jax.experimental.jet import jet

    generator = torch.Generator().manual_seed(0)
    W, V, D, E, x = (torch.randn(*s, dtype=torch.float64, generator=generator)
                     for s in ((4, 3), (2, 4), (4, 3), (2, 4), (3,)))  # fmt: skip

    def loss(params):
        return (torch.tanh(params[1] @ torch.sin(params[0] @ x)).exp()).sum()

    found = taylor_along(way(loss), order=4)([W, V], [D, E])
    with jax.enable_x64(True):
        jnp = jax.numpy
        w, v, d, e, at = (jnp.asarray(t.numpy()) for t in (W, V, D, E, x))
        zeros = [jnp.zeros_like(d)] * 3, [jnp.zeros_like(e)] * 3
        value, series = jet(lambda w, v: jnp.exp(jnp.tanh(v @ jnp.sin(w @ at))).sum(), (w, v),
                            ([d, *zeros[0]], [e, *zeros[1]]))  # fmt: skip
        expected = [float(number) for number in (value, *series)]
    for got, number in zip(found.derivatives, expected, strict=True):
        assert_close(got, numbers(number)[0], 1e-11)


@pytest.mark.parametrize("name", a_few_of(MODULES, ["layer_norm", "attention", "dropout"]))
def test_a_captured_third_derivative_is_the_curvature_differentiated_on(name):
    case = MODULES[name]()
    captured = capture(case.loss)
    found = taylor_along(captured)(case.params, case.direction, *case.args)
    line, unit = quadratic_along(captured), 1 / float(tree.norm(case.direction))

    def curvature(alpha):
        return line(tree.axpy(alpha, case.direction, case.params), case.direction, *case.args).curvature

    steps = [unit * 1e-2 / 2**k for k in range(4)]
    expected = extrapolated([(curvature(s) - curvature(-s)) / (2 * s) for s in steps], 2)
    assert_close(found.higher[0], expected, 1e-8, max(abs(expected), abs(found.curvature) / unit))


def test_the_first_three_numbers_are_the_quadratic():
    case = mse_net(activation=nn.Tanh)
    for loss in (case.loss, capture(case.loss)):
        quadratic = quadratic_along(loss)(case.params, case.direction, *case.args)
        for order in (2, 3, 4):
            found = taylor_along(loss, order=order)(case.params, case.direction, *case.args)
            torch.testing.assert_close(found.quadratic, quadratic, rtol=1e-13, atol=0)
            assert len(found.derivatives) == order + 1


def test_chunks_sum_to_the_whole_batch():
    case = mse_net(activation=nn.Tanh)
    whole = taylor_along(case.loss)(case.params, case.direction, *case.args)
    chunked = taylor_along(microbatched(capture(case.loss), 10))(case.params, case.direction, *case.args)
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=0)


@every_way
def test_derivatives_go_through_vmap_and_grad(way):
    case = mse_net(activation=nn.Tanh)
    verb = taylor_along(way(case.loss))
    single = verb(case.params, case.direction, *case.args)
    stacked = tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), case.direction)
    many = func.vmap(lambda d: verb(case.params, d, *case.args))(stacked)
    assert_close(many.higher[0][1], 8 * single.higher[0], 1e-12)
    slope = func.grad(lambda a: verb(tree.axpy(a, case.direction, case.params), case.direction, *case.args).curvature)
    assert_close(slope(torch.zeros((), dtype=torch.float64)), single.higher[0], 1e-11)


# Where the quadratic can be trusted.


@pytest.mark.parametrize("order", [3, 4, 6])
def test_at_the_trust_radius_what_is_left_out_is_the_share(order):
    generator = torch.Generator().manual_seed(order)
    value, slope, curvature, *higher = torch.randn(order + 1, 50, dtype=torch.float64, generator=generator)
    r = Taylor(value, slope, curvature, tuple(higher)).trust_radius(0.2)
    rest = sum(h.abs() * r**j / math.factorial(j) for j, h in enumerate(higher, 3))
    torch.testing.assert_close(rest, 0.2 * (slope.abs() * r + curvature.abs() * r**2 / 2), rtol=1e-11, atol=0)


def test_a_trust_radius_is_inverse_to_the_length_of_the_direction():
    case = mse_net(activation=nn.Tanh)
    verb = taylor_along(capture(case.loss), order=4)
    once, thrice = (verb(case.params, tree.scale(c, case.direction), *case.args).trust_radius() for c in (1, 3))
    assert_close(3 * thrice, once, 1e-11)


@pytest.mark.parametrize(
    ("derivatives", "radius"),
    [((-1.0, 2.0, 0.0), math.inf), ((0.0, 0.0, 5.0), 0.0), ((0.0, 2.0, 3.0), 0.2), ((-6.0, 0.0, 10.0), 0.6)],
    ids=["a quadratic", "no quadratic", "stationary", "a line"],
)
def test_a_trust_radius_is_that_of_the_closed_form_for(derivatives, radius):
    slope, curvature, third = numbers(*derivatives)
    found = Taylor(slope, slope, curvature, (third,)).trust_radius(0.1)
    torch.testing.assert_close(found, numbers(radius)[0], rtol=1e-12, atol=0)


# What is refused, or proven.


@every_way
@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        (1, ValueError, "order is 1: expected at least 2"),
        (True, TypeError, "order must be a whole number, got bool"),
        (2.5, TypeError, "order must be a whole number, got float"),
    ],
)
def test_an_order_is_refused(order, error, message, way):
    with pytest.raises(error, match=message):
        taylor_along(way(torch.sum), order=order)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t._replace(higher=()).trust_radius(), r"needs a derivative beyond the second: take taylor_along"),
        (lambda t: t.trust_radius(0.0), "tolerance is 0.0: give a share above 0"),
        (lambda t: t.trust_radius(math.nan), "tolerance is nan: give a share above 0"),
    ],
)
def test_a_trust_radius_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Taylor(*numbers(1.0, 2.0, 3.0), higher=(numbers(1.0)[0],)))


@pytest.mark.parametrize("name", ["layer_norm", "batch_norm_train"])
def test_a_third_derivative_that_pytorch_has_wrong_is_refused_uncaptured(name):
    case = MODULES[name]()
    with pytest.raises(StrategyError, match=r"third derivative through native_\w+_norm is silently wrong; use capture"):
        taylor_along(case.loss)(case.params, case.direction, *case.args)


class WrongThird(torch.autograd.Function):
    """x³ whose derivative is right to the second order, and 7 at the third."""

    @staticmethod
    def forward(x, order):
        return (x**3, 3 * x**2, 6 * x, 7 * torch.ones_like(x))[order]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.order = inputs[1]

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * WrongThird.apply(x, ctx.order + 1), None


@pytest.mark.filterwarnings("ignore:the second derivative of wrong_third")
def test_a_formula_that_differences_contradict_is_refused():
    def loss(x):
        return WrongThird.apply(x, 0).sum()

    x, d = numbers(0.5, -1.2), numbers(1.0, 2.0)
    assert_close(quadratic_along(loss)(x, d).curvature, numbers(6 * 0.5 - 24 * 1.2)[0], 1e-14)
    with pytest.raises(StrategyError, match=r"derivative of order 3 .* is 63, and finite differences give 54"):
        taylor_along(loss)(x, d)


def test_a_kink_at_the_point_is_refused_uncaptured():
    with pytest.raises(
        StrategyError, match=r"cannot be checked: finite differences do not converge here \(is a kink nearby\?\)"
    ):
        taylor_along(lambda x: (x.abs() * x * x).sum() + x.exp().sum())(numbers(0.0), numbers(1.0))


def test_unproven_operators_are_refused_under_a_transform():
    def each(d):
        return taylor_along(lambda x: x.exp().sum())(numbers(0.3), d)

    with pytest.raises(StrategyError, match="there are no values to check them with inside vmap or grad: call it once"):
        func.vmap(each)(numbers(1.0, 2.0)[:, None])


def test_a_wrong_rule_is_found_by_the_proof_of_a_higher_order(monkeypatch):
    right = RULES[aten.mul.Tensor].first

    def wrong(b, call, t):
        found = right(b, call, t)
        return b.call(aten.mul.Tensor, found, 2) if all(x is not None for x in t) else found

    def loss(x):
        return (x.sin() * x.exp()).sum()

    x, d = numbers(0.4, -0.3), numbers(1.0, 0.5)
    expected = derivatives_along(loss, x, d, 4)
    plant(monkeypatch, aten.mul.Tensor, first=wrong)
    with pytest.warns(
        CaptureWarning, match=r"Taylor program of order 4 .* The cause is the derivative rule of aten\.mul"
    ):
        found = taylor_along(capture(loss), order=4)(x, d)
    torch.testing.assert_close(found.derivatives, expected, rtol=1e-13, atol=0)
    with pytest.raises(CaptureError, match="Taylor program of order 4"):
        taylor_along(capture(loss, strict=True), order=4)(x, d)


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
@pytest.mark.parametrize("product", [lambda x: x.prod(), lambda x: x.reshape(1, 5).prod(1).sum()], ids=["all", "dim"])
def test_a_product_with_zeros_is_a_polynomial_to_every_order(product, zeros):
    x, d = numbers(2, 3, -1, 4, 5), numbers(1, -2, 3, 1, -1)
    x[:zeros] = 0
    polynomial = numbers(1, 0, 0, 0, 0, 0)
    for a, b in zip(x, d, strict=True):
        polynomial = a * polynomial + b * polynomial.roll(1)
    found = taylor_along(capture(product, strict=True), order=5)(x, d)
    truth = [math.factorial(j) * c for j, c in enumerate(polynomial.tolist())]
    assert torch.stack(found.derivatives).tolist() == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("tolerance", [True, "a", None, math.inf])
def test_a_tolerance_that_is_no_finite_number_is_refused(tolerance):
    with pytest.raises((TypeError, ValueError), match="tolerance"):
        Taylor(*numbers(1, 2, 3), higher=(numbers(4)[0],)).trust_radius(tolerance)


def test_the_radius_is_differentiable_where_a_derivative_is_zero():
    def radius(curvature):
        return Taylor(*numbers(1, -4), curvature, higher=tuple(numbers(0, 2))).trust_radius(0.1)

    c, step = numbers(8)[0], 1e-5
    slope = (radius(c + step) - radius(c - step)) / (2 * step)
    assert float(func.grad(radius)(c)) == pytest.approx(float(slope), rel=1e-6)
