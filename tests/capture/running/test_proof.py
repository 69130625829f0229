"""A scheme that is not the loss's is found at its first use, named, and not used; under strict it is an error."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import alpha_func
from alpha_func import capture, functional_loss, grad_and_quadratic, hvp, quadratic_along, tree
from alpha_func.capture.derivatives.rule import RULES, Call, rule_of, without_rules
from alpha_func.capture.rewrites import LAWS
from alpha_func.capture.running import backends, blame, evidence, schemes
from alpha_func.capture.running.difference import Spread
from alpha_func.capture.running.evidence import Witness
from alpha_func.capture.tracing import compositions, lowering, zeros_and_ties
from alpha_func.data_sets import per_example_quadratics
from alpha_func.errors import CaptureError, CaptureWarning, StrategyError
from alpha_func.verified.differences import differences
from tests.helpers.reference import double_backward
from tests.helpers.wrong_rules import TANH, plant

aten = torch.ops.aten


def net(*, dtype=torch.float64, zero_head=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)
    if zero_head:
        nn.init.zeros_(model[2].weight)
    loss, params = functional_loss(model, nn.MSELoss())
    batch = torch.randn(8, 4, dtype=dtype), torch.randn(8, 2, dtype=dtype)
    return loss, params, tree.map(torch.randn_like, params), batch


def verbs(captured, params, d, batch):
    """The quadratic by each scheme, and the direction it is along."""
    yield quadratic_along(captured)(params, d, *batch), d
    along_g = grad_and_quadratic(captured)(params, *batch)
    yield along_g.quadratic, along_g.direction
    yield grad_and_quadratic(captured, lambda _: d)(params, *batch).quadratic, d


def assert_right(loss, params, d, batch, captured):
    for got, along in verbs(captured, params, d, batch):
        torch.testing.assert_close(
            tuple(got), tuple(double_backward(loss, params, along, *batch)[0]), rtol=1e-10, atol=0
        )


RULE = RULES[TANH]


def bent(factor):
    """The second derivative of tanh times a factor."""
    return lambda b, *operands: b.call(aten.mul.Tensor, RULE.second(b, *operands), factor)


def doubled_pullback(b, *operands):
    return [b.call(aten.mul.Tensor, adjoint, 2) for adjoint in RULE.pullback(b, *operands)]


def fails(*_):
    raise AttributeError("'float' object has no attribute 'meta'")


WRONG = {
    "second": {"second": bent(0.5)},
    "pullback": {"pullback": doubled_pullback},
    "raises": {"pullback": fails},
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_rule_is_named_once_and_the_answers_are_right(kind, monkeypatch):
    plant(monkeypatch, **WRONG[kind])
    loss, params, d, batch = net()
    captured = capture(loss)
    with pytest.warns(CaptureWarning, match=r"the derivative rule of aten\.tanh\.default") as caught:
        assert_right(loss, params, d, batch, captured)
    (warning,) = [w for w in caught if w.category is CaptureWarning]
    assert not warning.filename.startswith(str(Path(alpha_func.__file__).parent))
    assert_right(loss, params, d, batch, captured)


def test_a_wrong_rule_under_strict_is_an_error_that_names_it(monkeypatch):
    plant(monkeypatch, **WRONG["second"])
    loss, params, d, batch = net()
    with pytest.raises(
        CaptureError, match=r"the curvature is .* The cause is the derivative rule of aten\.tanh\.default"
    ):
        quadratic_along(capture(loss, strict=True))(params, d, *batch)


def test_a_wrong_law_is_named(monkeypatch):
    def a_product_is_its_first_factor(b, args, kwargs):
        return args[0] if getattr(args[1], "op", "") == "call_function" else None

    monkeypatch.setitem(LAWS._all, aten.mul.Tensor, [a_product_is_its_first_factor, *LAWS[aten.mul.Tensor]])
    loss, params, d, batch = net()
    with pytest.raises(CaptureError, match="law a_product_is_its_first_factor"):
        quadratic_along(capture(loss, strict=True))(params, d, *batch)


def test_memory_that_is_reused_too_early_is_named(monkeypatch):
    real = backends.reuse

    def over_an_input(program):
        program = real(program)
        node = next(n for n in program.graph.nodes if n.target is aten.tanh.default)
        with program.graph.inserting_after(node):
            late = program.graph.call_function(aten.zero_.default, (node,))
        late.meta["val"] = node.meta["val"]
        program.recompile()
        return program

    monkeypatch.setattr(backends, "reuse", over_an_input)
    monkeypatch.setattr(blame, "reuse", over_an_input)
    loss, params, d, batch = net()
    with pytest.raises(CaptureError, match="The cause is reuse of memory"):
        quadratic_along(capture(loss, strict=True))(params, d, *batch)


def test_a_program_that_fails_at_a_later_call_is_given_up_for_good():
    loss, params, d, batch = net()
    captured = capture(loss)
    along = quadratic_along(captured)
    for _ in range(2):
        along(params, d, *batch)
    scheme = captured.program(params, *batch).schemes.quadratic
    other = tree.map(torch.randn_like, batch)

    def no_view(*inputs):
        raise RuntimeError("view size is not compatible")

    scheme.proven["eager"] = no_view
    with pytest.warns(
        CaptureWarning,
        match="Taylor program of a captured loss failed its check and is not used: RuntimeError: view size",
    ):
        got = along(params, d, *other)
    torch.testing.assert_close(tuple(got), tuple(double_backward(loss, params, d, *other)[0]), rtol=1e-10, atol=0)
    assert scheme.proven["eager"] is None


def test_the_losss_own_error_comes_through_and_nothing_is_given_up():
    table = torch.randn(5, 3, dtype=torch.float64)
    captured = capture(lambda table, index: table[index].square().sum(), strict=True)
    along = quadratic_along(captured)
    for index in ([0, 1], [2, 3], [4, 0]):
        along(table, table, torch.tensor(index))
    with pytest.raises(IndexError, match="out of"):
        along(table, table, torch.tensor([0, 9]))
    assert along(table, table, torch.tensor([1, 1])).slope == 4 * table[1].square().sum()


def test_an_error_that_a_zero_head_hides_is_found_before_other_values(monkeypatch):
    plant(monkeypatch, **WRONG["pullback"])
    loss, params, _, batch = net(zero_head=True)
    captured = capture(loss, strict=True)
    step = grad_and_quadratic(captured)
    truth = grad_and_quadratic(loss)(params, *batch)
    torch.testing.assert_close(step(params, *batch), truth)  # what is behind the head has no gradient yet
    with pytest.raises(CaptureError, match=r"aten\.tanh\.default"):
        step(params, *batch)


def test_a_zero_direction_proves_nothing_for_the_next_one(monkeypatch):
    plant(monkeypatch, **WRONG["second"])
    loss, params, d, batch = net()
    along = quadratic_along(capture(loss, strict=True))
    assert along(params, tree.zeros_like(d), *batch).curvature == 0
    with pytest.raises(CaptureError, match="The cause is the derivative rule"):
        along(params, tree.zeros_like(d), *batch)


def test_under_vmap_one_example_is_proven_and_the_rest_falls_back(monkeypatch):
    plant(monkeypatch, **WRONG["second"])
    loss, params, d, batch = net()
    with pytest.warns(CaptureWarning, match=r"aten\.tanh\.default"):
        got = per_example_quadratics(capture(loss))(params, d, batch)
    for i, curvature in enumerate(got.curvature):
        truth = double_backward(loss, params, d, *(part[i : i + 1] for part in batch))[0]
        torch.testing.assert_close(curvature, truth.curvature, rtol=1e-10, atol=0)


def test_differentiating_alpha_falls_back_too(monkeypatch):
    plant(monkeypatch, **WRONG["second"])
    loss, params, d, batch = net()

    def alpha(of):
        return lambda p: quadratic_along(of)(p, d, *batch).alpha

    with pytest.warns(CaptureWarning, match=r"aten\.tanh\.default"):
        got = torch.func.grad(alpha(capture(loss)))(params)
    torch.testing.assert_close(got, torch.func.grad(alpha(loss))(params))


def test_where_pytorch_gives_nan_the_sweep_need_not():
    def loss(x):
        return torch.where(x > 0, x.sqrt(), x).sum()

    x, d = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaptureWarning)
        quadratic_along(capture(loss))(x, d)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_roundings_are_not_taken_for_errors(dtype):
    torch.manual_seed(0)
    width = 64
    layers = [layer for _ in range(6) for layer in (nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width))]
    loss, params = functional_loss(nn.Sequential(*layers).to(dtype), nn.MSELoss())
    batch = torch.randn(16, width).to(dtype), torch.randn(16, width).to(dtype)
    captured = capture(loss, strict=True)
    for _ in range(2):
        for got, _along in verbs(captured, params, tree.map(torch.randn_like, params), batch):
            assert got.curvature.isfinite()


def test_a_compiled_scheme_is_proven_as_it_runs(monkeypatch):
    real = schemes.BACKENDS["inductor"]

    def miscompiled(program):
        run = real(program)
        return lambda *inputs: [output * 1.5 for output in run(*inputs)]

    monkeypatch.setitem(schemes.BACKENDS, "inductor", miscompiled)
    loss, params, d, batch = net()
    with pytest.warns(CaptureWarning, match="The cause is backend 'inductor'"):
        got = quadratic_along(capture(loss, backend="inductor"))(params, d, *batch)
    torch.testing.assert_close(tuple(got), tuple(double_backward(loss, params, d, *batch)[0]), rtol=1e-10, atol=0)


def test_strict_refuses_an_operator_whose_sweep_was_never_verified(monkeypatch):
    monkeypatch.setattr(schemes, "unverified_operators", lambda *_: ["aten.linalg_householder_product.default"])
    captured = capture(lambda x: torch.linalg.householder_product(x, x[0]).sum(), strict=True)
    with pytest.raises(CaptureError, match=r"householder_product.* has not been verified"):
        quadratic_along(captured)(torch.ones(3, 2), torch.ones(3, 2))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_scheme_is_proven_where_nothing_is_recorded(mode):
    loss, params, d, batch = net()
    captured = capture(loss, strict=True)
    for _ in range(2):
        with mode():
            found = list(verbs(captured, params, d, batch))
        for got, along in found:
            truth = double_backward(loss, params, tree.map(torch.clone, along), *batch)[0]
            torch.testing.assert_close(tuple(map(float, got)), tuple(map(float, truth)), rtol=1e-10, atol=0)


def wrong_twice(x):
    """logcumsumexp with an exact zero, whose double backward PyTorch has wrong (2.365 for 4.365)."""
    return torch.logcumsumexp(x, 0).square().sum()


AT_ZERO = torch.tensor([0.0, 0.5, -0.7], dtype=torch.float64), torch.tensor([1.0, -0.6, 0.3], dtype=torch.float64)


@pytest.fixture
def pytorchs_own(monkeypatch):
    """Its formula in the program, in place of ours, which is right twice."""
    monkeypatch.delitem(zeros_and_ties.BY_OPERATOR, aten.logcumsumexp.default)
    lowering._decompositions.cache_clear()
    yield
    lowering._decompositions.cache_clear()


def truth(loss, x, d):
    found = differences(lambda alpha: float(loss(x + alpha * d)), 1 / float(d.norm()))
    assert found.smooth
    return found.curvature


def test_where_pytorch_is_wrong_differences_decide_for_the_sweep(pytorchs_own):
    x, d = AT_ZERO
    captured = capture(wrong_twice, strict=True)
    for _ in range(2):
        for got, along in verbs(captured, x, d, ()):
            assert float(got.curvature) == pytest.approx(truth(wrong_twice, x, along), rel=1e-6)


def test_a_product_that_pytorch_has_wrong_is_that_of_the_sweep(pytorchs_own):
    x, d = AT_ZERO
    got = hvp(capture(wrong_twice))(x, d)
    assert float(got @ d) == pytest.approx(truth(wrong_twice, x, d), rel=1e-6)


def test_a_strategy_found_to_be_wrong_is_refused_from_then_on(pytorchs_own):
    x, d = AT_ZERO
    captured = capture(wrong_twice)
    hvp(captured)(x, d)
    with pytest.raises(StrategyError, match="disagree with finite differences of its values"):
        quadratic_along(captured, strategy="reverse_over_reverse")(x, d)


def test_where_neither_is_the_derivative_it_is_an_error(pytorchs_own, monkeypatch):
    plant(monkeypatch, **WRONG["second"])
    x, d = AT_ZERO
    step = grad_and_quadratic(capture(lambda x: wrong_twice(x) + x.tanh().sum()), lambda _: d)
    with pytest.raises(CaptureError, match="differences of the loss agree with neither"):
        step(x)


@pytest.mark.parametrize(("dtype", "room"), [(torch.float32, 2**29), (torch.float32, 0), (torch.bfloat16, 2**29)])
def test_one_percent_is_found_in_low_precision_with_kinks(dtype, room, monkeypatch):
    plant(monkeypatch, second=bent(1.01))
    monkeypatch.setattr(evidence, "_ROOM", room)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU())
    loss, params = functional_loss(model.to(dtype), nn.MSELoss())
    batch = torch.randn(16, 8).to(dtype), torch.randn(16, 64).to(dtype)
    with pytest.raises(CaptureError, match=r"the derivative rule of aten\.tanh\.default"):
        quadratic_along(capture(loss, strict=True))(params, tree.map(torch.randn_like, params), *batch)


@pytest.mark.parametrize("room", [0, 2**29])
def test_of_a_large_program_roundings_explain_what_cancels(room, monkeypatch):
    in_double = []
    monkeypatch.setattr(evidence, "_ROOM", room)
    monkeypatch.setattr(Witness, "in_double", property(lambda self: in_double.append(self)))
    torch.manual_seed(0)
    w, d, x = torch.randn(3, 4096).unbind()
    y = x + 1e-3 * torch.randn(4096)
    captured = capture(lambda w: (w * x).sin().sum() ** 2 - (w * y).sin().sum() ** 2)
    with suppress(AttributeError):  # of None
        quadratic_along(captured)(w, d)
    assert bool(in_double) == bool(room)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_lowering_wrong_to_second_order_alone_is_found(dtype, monkeypatch):
    def straight(x):
        at = x.detach()
        return 0.5 * (at.exp() - (-at).exp()) + (x - at) * 0.5 * (at.exp() + (-at).exp())

    monkeypatch.setitem(compositions.BY_OPERATOR, aten.sinh.default, straight)
    lowering._decompositions.cache_clear()
    x, d = torch.tensor([0.3, -0.8], dtype=dtype), torch.tensor([1.0, 0.5], dtype=dtype)
    captured = capture(lambda x: x.sinh().square().sum())
    with pytest.warns(CaptureWarning, match="The cause is the program itself"):
        found = [quadratic_along(captured)(x, d) for _ in range(2)]
    lowering._decompositions.cache_clear()
    expected = float((d.square() * 2 * (2 * x).cosh()).sum())
    assert float(found[1].curvature) == pytest.approx(expected, rel=1e-5)


def test_tables_are_as_ever_in_other_threads_while_blame_leaves_rules_out(monkeypatch):
    laws, call = LAWS[aten.mul.Tensor], Call(TANH, (0.5,), {}, 0.46)
    with without_rules({TANH}), LAWS.without(laws), ThreadPoolExecutor(1) as other:
        assert rule_of(call) is None
        assert LAWS[aten.mul.Tensor] == []
        assert other.submit(rule_of, call).result() is RULE
        assert other.submit(LAWS.__getitem__, aten.mul.Tensor).result() == laws


def test_double_backward_answers_where_the_sweep_is_nan_and_it_is_not(monkeypatch):
    plant(monkeypatch, second=bent(math.nan))
    loss, params, d, batch = net()
    with pytest.warns(CaptureWarning, match="nan"):
        got = quadratic_along(capture(loss))(params, d, *batch)
    torch.testing.assert_close(tuple(got), tuple(double_backward(loss, params, d, *batch)[0]), rtol=1e-10, atol=0)


def proven_along(captured, params, d, batch):
    for _ in range(2):
        quadratic_along(captured)(params, d, *batch)


STEPS = {"along -g": (), "along another": (lambda grads: tree.map(torch.sign, grads),)}


@pytest.mark.parametrize("direction", STEPS.values(), ids=STEPS)
def test_a_proven_sweep_proves_an_adjoint_without_double_backward(direction, monkeypatch):
    loss, params, d, batch = net()
    captured = capture(loss, strict=True)
    proven_along(captured, params, d, batch)
    monkeypatch.setattr(Witness, "_backward", fails)
    for _ in range(2):
        step = grad_and_quadratic(captured, *direction)(params, *batch)
    expected = grad_and_quadratic(loss, *direction)(params, *batch)
    torch.testing.assert_close(step, expected)


@pytest.mark.parametrize("direction", STEPS.values(), ids=STEPS)
def test_a_wrong_pullback_is_found_beside_a_proven_sweep(direction, monkeypatch):
    plant(monkeypatch, **WRONG["pullback"])
    loss, params, d, batch = net()
    captured = capture(loss, strict=True)
    proven_along(captured, params, d, batch)
    with pytest.raises(CaptureError, match=r"derivative rule of aten\.tanh\.default"):
        grad_and_quadratic(captured, *direction)(params, *batch)


def test_a_direction_that_is_not_descent_is_found(monkeypatch):
    loss, params, _, batch = net()

    def turned(program):
        run = backends.eager(program)
        return lambda *inputs: [*(outputs := run(*inputs))[: -len(params)], *map(torch.neg, outputs[-len(params) :])]

    monkeypatch.setitem(schemes.BACKENDS, "inductor", turned)
    with pytest.raises(CaptureError, match="the distance of the direction from −g is"):
        grad_and_quadratic(capture(loss, backend="inductor", strict=True))(params, *batch)


class Runs(Spread):
    """Values without roundings, and with them."""

    def __init__(self, exact, *runs):
        super().__init__()
        self.values = exact, runs

    def started(self):
        exact, runs = self.values
        return {"value": torch.tensor(exact)}, ({"value": torch.tensor(run)} for run in runs)


def test_roundings_explain_no_value_that_all_of_them_move_alike():
    assert not Runs(18.0, 102.0, 102.0 + 1e-4, 102.0).explains("value", 84.0)
    assert Runs(18.0, 102.0, 5.0, 40.0).explains("value", 84.0)
