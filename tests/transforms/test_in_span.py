"""The quadratic in a span of directions against dense Hessians and its own definition; and what is refused."""

import pytest
import torch
from torch import func, nn

from alpha_func import capture, quadratic_along, tree
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.data_sets import microbatched
from alpha_func.errors import CaptureWarning
from alpha_func.span import SpanQuadratic
from alpha_func.transforms import STRATEGIES, quadratic_in_span
from tests.helpers.cases import MODULES, mse_net
from tests.helpers.reference import dense_with_math_attention, flat
from tests.helpers.whole import a_few_of
from tests.helpers.wrong_rules import TANH, plant

aten = torch.ops.aten


def directions_of(case, count):
    return [tree.randn_like(case.params, generator=torch.Generator().manual_seed(10 + i)) for i in range(count)]


def assert_span(got, case, directions, tol=1e-11):
    truth = dense_with_math_attention(case)
    D = torch.stack([flat(d) for d in directions])
    lengths = D.norm(dim=1)
    assert abs(got.value - truth.value) <= tol * abs(truth.value)
    assert ((got.slopes - D @ truth.gradient).abs() <= tol * lengths * truth.gradient.norm()).all()
    hd = (D @ truth.hessian).norm(dim=1)
    assert ((got.curvature - D @ truth.hessian @ D.T).abs() <= tol * torch.outer(lengths, hd)).all()
    torch.testing.assert_close(got.gram, D @ D.T, rtol=1e-13, atol=1e-13)
    assert torch.equal(got.curvature, got.curvature.T)


@pytest.mark.parametrize("name", a_few_of(MODULES, ["mlp", "layer_norm", "batch_norm_train", "attention", "tied"]))
def test_a_captured_span_is_that_of_the_dense_hessian_on(name):
    case = MODULES[name]()
    directions = directions_of(case, 3)
    captured = capture(case.loss, strict=True)
    for _ in range(2):  # proven at its own values, and then away from them
        assert_span(quadratic_in_span(captured)(case.params, directions, *case.args), case, directions)


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_a_span_is_that_of_the_dense_hessian_by(strategy):
    case = mse_net(activation=nn.Tanh, criterion=lambda x, y: (x - y).square().mean())
    directions = directions_of(case, 2)
    assert_span(quadratic_in_span(case.loss, strategy=strategy)(case.params, directions, *case.args), case, directions)


def test_operands_that_are_given_by_name_belong_to_the_span():
    def loss(p):  # the tolerances of a pseudo-inverse are tensors by name
        return torch.pinverse(p).square().sum()

    p, *directions = torch.randn(3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = quadratic_in_span(capture(loss, strict=True))(p, directions).curvature
    torch.testing.assert_close(got, quadratic_in_span(loss)(p, directions).curvature)


def test_chunks_sum_to_the_span_of_the_whole_batch():
    case = mse_net(activation=nn.Tanh)
    directions = directions_of(case, 2)
    for loss in (case.loss, capture(case.loss)):
        assert_span(
            quadratic_in_span(microbatched(loss, 10))(case.params, directions, *case.args), case, directions, 1e-10
        )


@pytest.mark.parametrize("captured", [False, True])
def test_a_span_goes_through_vmap_and_grad(captured):
    case = mse_net(activation=nn.Tanh)
    d, e = directions_of(case, 2)
    verb = quadratic_in_span(capture(case.loss) if captured else case.loss)
    stacked = tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), d)
    many = func.vmap(lambda d: verb(case.params, [d, e], *case.args))(stacked)
    once = verb(case.params, [d, e], *case.args)
    torch.testing.assert_close(many.curvature[1], once.curvature * torch.tensor([[4, 2], [2, 1]]), rtol=1e-12, atol=0)
    line = quadratic_along(case.loss)
    got = func.grad(lambda a: verb(tree.axpy(a, d, case.params), [d, e], *case.args).curvature[0, 0])
    expected = func.grad(lambda a: line(tree.axpy(a, d, case.params), d, *case.args).curvature)
    zero = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(got(zero), expected(zero), rtol=1e-11, atol=0)


def test_results_are_float32_or_better():
    case = mse_net(dtype=torch.bfloat16)
    got = quadratic_in_span(case.loss)(case.params, directions_of(case, 2), *case.args)
    assert {number.dtype for number in got} == {torch.float32}


def test_a_wrong_rule_is_found_by_the_proof_of_a_span(monkeypatch):
    right = RULES[TANH].first
    plant(monkeypatch, first=lambda b, *x: b.call(aten.mul.Tensor, right(b, *x), 2))
    case = mse_net(activation=nn.Tanh)
    directions = directions_of(case, 2)
    with pytest.warns(
        CaptureWarning, match=r"the adjoint along 2 directions .* The cause is the derivative rule of aten\.tanh"
    ):
        assert_span(quadratic_in_span(capture(case.loss))(case.params, directions, *case.args), case, directions)


# What follows from the numbers.

Q = SpanQuadratic(
    torch.tensor(3.0, dtype=torch.float64),
    torch.tensor([-2.0, 4.0, 1.0], dtype=torch.float64),
    torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]], dtype=torch.float64),
    torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 3.0]], dtype=torch.float64),
)


@pytest.mark.parametrize("fixed", [None, {1: 0.7}, {0: -1.0, 2: torch.tensor(0.3)}, {0: 1.0, 1: 2.0, 2: 3.0}])
@pytest.mark.parametrize("damping", [0.0, 1.5])
def test_at_the_minimizer_nothing_is_gained_by_what_is_free(damping, fixed):
    def damped(c):
        return Q(c) + damping * c @ Q.gram @ c / 2

    c = Q.minimizer(damping=damping, fixed=fixed)
    slope = func.grad(damped)(c)
    for i in range(3):
        if fixed and i in fixed:
            assert c[i] == torch.as_tensor(fixed[i], dtype=torch.float64)
        else:
            assert abs(slope[i]) <= 1e-14


def test_the_minimum_is_below_every_other_value():
    others = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert Q.is_minimum
    assert (Q.minimum <= Q(others)).all()
    assert not Q._replace(curvature=-Q.curvature).is_minimum


def test_a_singular_curvature_has_no_finite_minimizer():
    assert not Q._replace(curvature=torch.ones(3, 3, dtype=torch.float64)).minimizer().isfinite().any()


# What is refused.


def ones(*shape):
    return {"w": torch.ones(shape or (3,))}


REFUSED = {
    "none": ([], ValueError, r"directions is empty: pass at least one tree"),
    "a tree": (
        ones(),
        TypeError,
        r"directions must be a list or tuple of trees with the structure of params, got dict",
    ),
    "another shape": ([ones(), ones(2)], ValueError, r"directions\[1\]\['w'\] has shape \(2,\): expected \(3,\)"),
    "zero": ([ones(), {"w": torch.zeros(3)}], ValueError, r"directions\[1\] is zero: leave it out"),
    "a multiple": (
        [ones(), {"w": torch.full((3,), 1 / 3)}],
        ValueError,
        r"directions\[1\] is a linear combination of those",
    ),
    "a combination": (
        [ones(), {"w": torch.tensor([1.0, 2.0, 4.0])}, {"w": torch.tensor([3.0, 5.0, 9.0])}],
        ValueError,
        r"directions\[2\] is a linear combination of those before it",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_directions_are_refused_that_are(kind):
    directions, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        quadratic_in_span(lambda p: (p["w"] ** 2).sum())(ones(), directions)


def test_directions_that_are_nearly_dependent_are_taken():
    near = {"w": torch.tensor([1.0, 1.0, 1.0 + 1e-4])}
    got = quadratic_in_span(lambda p: (p["w"] ** 2).sum())(ones(), [ones(), near])
    torch.testing.assert_close(got.curvature, 2 * got.gram)


def test_a_coefficient_of_no_direction_is_refused():
    with pytest.raises(ValueError, match="fixed holds coefficient 3: the 3 directions are 0 to 2"):
        Q.minimizer(fixed={3: 1.0})


def test_spans_that_vmap_stacked_answer_as_each_does():
    case = mse_net()
    pairs = [directions_of(case, 4)[i : i + 2] for i in range(3)]
    span = quadratic_in_span(capture(case.loss, strict=True))
    each = [span(case.params, pair, *case.args) for pair in pairs]
    stacked = SpanQuadratic(*(torch.stack(numbers) for numbers in zip(*each, strict=True)))
    c = stacked.minimizer(damping=0.3, fixed={1: 0.5})
    torch.testing.assert_close(c, torch.stack([q.minimizer(damping=0.3, fixed={1: 0.5}) for q in each]))
    torch.testing.assert_close(stacked.minimum, torch.stack([q.minimum for q in each]))


@pytest.mark.parametrize("wrap", [lambda loss: loss, capture], ids=["plain", "captured"])
def test_a_loss_of_another_precision_inside_has_a_span_of_one_dtype(wrap):
    x = torch.arange(1.0, 4, dtype=torch.float64)
    q = quadratic_in_span(wrap(lambda x: (x.float() ** 4).sum().double()))(x, list(torch.eye(3, dtype=torch.float64)))
    assert {number.dtype for number in q} == {torch.float64}
    torch.testing.assert_close(q.minimizer(), -x / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": -1.0}, "damping is -1.0"),
        ({"damping": "a"}, "damping must be a number"),
        ({"fixed": [0]}, "fixed must be a dict"),
        ({"fixed": {0: "a"}}, r"fixed\[0\] must be a number"),
    ],
)
def test_a_minimizer_says_what_is_wrong_with_its_arguments(arguments, message):
    q = SpanQuadratic(torch.tensor(0.0), torch.ones(2), torch.eye(2), torch.eye(2))
    with pytest.raises((TypeError, ValueError), match=message):
        q.minimizer(**arguments)


def test_coefficients_of_another_number_than_the_directions_are_refused():
    q = SpanQuadratic(torch.tensor(0.0), torch.ones(2), torch.eye(2), torch.eye(2))
    with pytest.raises(ValueError, match=r"coefficients have shape \(3,\): give a last dimension of 2"):
        q(torch.ones(3))
