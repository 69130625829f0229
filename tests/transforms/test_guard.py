"""Never silently wrong: a strategy that PyTorch gets wrong on an operator is refused before it runs."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from alpha_func import capture, functional_loss, grad_and_quadratic, hvp, quadratic_along, tree
from alpha_func.errors import ImpureLossError, StrategyError
from alpha_func.transforms import STRATEGIES
from alpha_func.transforms.guard import Guard
from tests.helpers.cases import MODULES, squared_error
from tests.helpers.reference import assert_close, double_backward

WRONG = [
    ("layer_norm", "reverse_over_forward", "native_layer_norm"),
    ("layer_norm", "forward_over_forward", "native_layer_norm"),
    ("batch_norm_train", "reverse_over_forward", "native_batch_norm"),
    ("batch_norm_train", "forward_over_forward", "native_batch_norm"),
]


@pytest.mark.parametrize(("name", "strategy", "operator"), WRONG)
def test_a_strategy_wrong_on_a_norm_is_refused_and_a_right_one_named(name, strategy, operator):
    case = MODULES[name]()
    for transform in (quadratic_along, hvp):
        with pytest.raises(StrategyError, match=f"{strategy}.*{operator}.*'reverse_over_reverse'.*capture"):
            transform(case.loss, strategy=strategy)(case.params, case.direction, *case.args)


def weight_normed():
    torch.manual_seed(0)
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)).double()
    loss, params = functional_loss(net, nn.MSELoss())
    return loss, params, tree.randn_like(params), (torch.randn(8, 3).double(), torch.randn(8, 2).double())


def test_weight_norm_is_refused_by_default_in_favour_of_capture():
    loss, params, d, batch = weight_normed()
    with pytest.raises(StrategyError, match=r"reverse_over_reverse.*weight_norm_interface.*capture"):
        quadratic_along(loss)(params, d, *batch)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weight_norm_is_accepted_when_captured(strategy):
    loss, params, d, batch = weight_normed()
    found = quadratic_along(capture(loss), strategy=strategy)(params, d, *batch)
    torch.testing.assert_close(found, quadratic_along(capture(loss))(params, d, *batch))


def test_refused_under_vmap_over_directions_examples_and_params():
    case = MODULES["layer_norm"]()
    quadratic = quadratic_along(case.loss, strategy="forward_over_forward")
    stacked = tree.map(lambda t: torch.stack([t, 2 * t]), case.params)
    for dims, args in (
        ((None, 0, None, None), (case.params, stacked, *case.args)),
        ((0, None, None, None), (stacked, case.direction, *case.args)),
        ((None, None, 0, 0), (case.params, case.direction, *(a.unsqueeze(1) for a in case.args))),
    ):
        with pytest.raises(StrategyError, match="native_layer_norm"):
            torch.func.vmap(quadratic, dims)(*args)


def test_a_norm_of_the_data_alone_is_nobodys_business():
    def loss(params, x):
        return (F.layer_norm(x, (3,)) * params).square().sum()

    given = torch.ones(3), torch.ones(3), torch.randn(2, 3)
    found = quadratic_along(loss, strategy="forward_over_forward")(*given)
    torch.testing.assert_close(found, quadratic_along(loss)(*given))


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0] ** 2


def test_an_operator_never_verified_warns_once():
    x = torch.ones(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            quadratic_along(lambda x: Cubed.apply(x).sum())(x, x)
    messages = [str(w.message) for w in caught if "never been verified" in str(w.message)]
    assert len(messages) == 1
    assert re.search(r"cubed.*check_quadratic", messages[0])


def test_mode_of_the_module_is_looked_at_anew():
    case = MODULES["batch_norm_train"]()
    quadratic = quadratic_along(case.loss, strategy="forward_over_forward")
    case.loss.model.eval()
    quadratic(case.params, case.direction, *case.args)
    case.loss.model.train()
    with pytest.raises(StrategyError, match="batch_norm"):
        quadratic(case.params, case.direction, *case.args)


SWITCH = {"on": False}


def by_a_branch(through, otherwise):
    """A loss that goes ``through`` an operator where something is on: what that is ``turn`` decides."""
    return {
        "a value": lambda p, x: through(p, x) if float(p["scale"].detach().sum()) > 0 else otherwise(p, x),
        "a global": lambda p, x: through(p, x) if SWITCH["on"] else otherwise(p, x),
        "a batch": lambda p, x: through(p, x) if float(x.sum()) > 0 else otherwise(p, x),
    }


def turn(branch, on, p, x):
    SWITCH["on"] = on
    sign = 1.0 if on else -1.0
    scale = sign * p["scale"].abs() if branch == "a value" else p["scale"]
    return {**p, "scale": scale}, sign * x.abs() if branch == "a batch" else x


def with_weight_norm(p, x):
    return (x @ torch._weight_norm(p["v"], p["scale"], 0)).tanh().square().sum()


def with_layer_norm(p, x):
    return (F.layer_norm(x @ p["v"], (3,)) @ p["scale"]).tanh().square().sum()


def with_neither(p, x):
    return (x @ (p["v"] * p["scale"])).tanh().square().sum()


# What PyTorch gets wrong, and by which strategies
BRANCHES = [
    (with_weight_norm, "reverse_over_reverse"),
    (with_layer_norm, "reverse_over_forward"),
    (with_layer_norm, "forward_over_forward"),
]


@pytest.mark.parametrize("branch", ["a value", "a global", "a batch"])
@pytest.mark.parametrize(("through", "strategy"), BRANCHES)
def test_a_branch_is_looked_at_when_it_is_taken(through, strategy, branch):
    generator = torch.Generator().manual_seed(0)
    p = {"v": torch.randn(3, 3, generator=generator), "scale": torch.rand(3, 1, generator=generator) + 0.5}
    x, loss = torch.randn(4, 3, generator=generator), by_a_branch(through, with_neither)[branch]
    for transform in (quadratic_along, hvp):
        call = transform(loss, strategy=strategy)
        params, batch = turn(branch, False, p, x)
        call(params, p, batch)
        params, batch = turn(branch, True, p, x)
        with pytest.raises(StrategyError, match=r"weight_norm|layer_norm"):
            call(params, p, batch)
        params, batch = turn(branch, False, p, x)
        call(params, p, batch)


def test_a_third_derivative_through_a_branch_taken_later_is_refused():
    p = {"v": torch.ones(3, 3), "scale": torch.ones(3, 1)}
    call = quadratic_along(by_a_branch(with_layer_norm, with_neither)["a global"])
    for on in (False, True):
        SWITCH["on"] = on
        third = torch.func.grad(lambda v: call({**p, "v": v}, p, torch.eye(3)).curvature)
        if on:
            with pytest.raises(StrategyError, match="native_layer_norm is being differentiated"):
                third(p["v"])
        else:
            third(p["v"])


def test_later_looks_run_nothing():
    calls = 0

    def loss(x):
        nonlocal calls
        calls += 1
        return x.square().sum()

    guard = Guard(STRATEGIES["reverse_over_reverse"])
    for _ in range(3):
        guard(loss, torch.ones(2), (), {}).settles()
    assert calls == 2  # once watched, once for the formulas


class CubedOnce(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0] ** 2


@pytest.mark.parametrize(
    "through",
    [lambda f: f, torch.func.grad, lambda f: lambda d: torch.func.vmap(f)(d[None])],
    ids=["plain", "grad", "vmap"],
)
def test_a_backward_that_is_differentiable_once_is_refused(through):
    x = torch.ones(2)
    quadratic = quadratic_along(lambda x: CubedOnce.apply(x).sum())
    with pytest.raises(
        StrategyError, match=r"cubed_once is an autograd\.Function.*once_differentiable.*torch operators"
    ):
        through(lambda d: quadratic(x * d, d).curvature)(x)


def looked_up(params, indices):
    return F.embedding(indices, params["weight"], max_norm=1.0).square().sum()


class LookedUp(nn.Module):
    def __init__(self, frozen=False):
        super().__init__()
        self.weight, self.scale = nn.Parameter(3 * torch.ones(4, 2)), nn.Parameter(torch.ones(()))
        self.weight.requires_grad_(not frozen)

    def forward(self, indices):
        return self.scale * F.embedding(indices, self.weight, max_norm=1.0).square().sum()


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("wrap", [lambda f: f, capture, quadratic_along, lambda f: quadratic_along(capture(f))])
def test_an_embedding_that_writes_to_its_weight_is_refused_before_it_does(wrap, frozen):
    module, indices = LookedUp(frozen), torch.tensor([0, 2])
    loss, params = functional_loss(module)
    call = wrap(loss)
    operands = (params, indices) if call is loss or hasattr(call, "program") else (params, params, indices)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"F\.embedding with max_norm=1\.0.*set max_norm=None"):
            call(*operands)
    assert torch.equal(module.weight, 3 * torch.ones(4, 2))


def test_so_is_one_in_a_plain_function():
    params = {"weight": 3 * torch.ones(4, 2)}
    with pytest.raises(ValueError, match=r"F\.embedding with max_norm"):
        quadratic_along(looked_up)(params, params, torch.tensor([0, 2]))
    assert torch.equal(params["weight"], 3 * torch.ones(4, 2))


def curvature(loss, case):
    return lambda p: quadratic_along(loss)(p, case.direction, *case.args).curvature


def slope_of_the_curvature(case):
    """Its derivative along a second direction, by differences of double backward."""
    along = tree.randn_like(case.params, generator=torch.Generator().manual_seed(5))

    def at(s):
        return double_backward(case.loss, tree.axpy(s, along, case.params), case.direction, *case.args)[0].curvature

    def difference(h):
        return (at(h) - at(-h)) / (2 * h)

    return along, (4 * difference(1e-4) - difference(2e-4)) / 3


@pytest.mark.parametrize("name", ["layer_norm", "batch_norm_train"])
def test_a_third_derivative_through_a_norm_is_refused_unless_captured(name):
    case = MODULES[name]()
    leaf = tree.map(lambda p: p.clone().requires_grad_(), case.params)
    for differentiate in (
        lambda: torch.func.grad(curvature(case.loss, case))(case.params),
        lambda: curvature(case.loss, case)(leaf).backward(),
    ):
        with pytest.raises(StrategyError, match=r"curvature through native_\w+_norm is being differentiated.*capture"):
            differentiate()
    with pytest.raises(StrategyError, match="is being differentiated"):
        torch.func.grad(lambda p: tree.norm(hvp(case.loss)(p, case.direction, *case.args)))(case.params)
    with pytest.raises(StrategyError, match="is being differentiated"):
        torch.func.grad(lambda p: grad_and_quadratic(case.loss)(p, *case.args).quadratic.alpha)(case.params)
    along, expected = slope_of_the_curvature(case)
    got = tree.vdot(torch.func.grad(curvature(capture(case.loss), case))(case.params), along)
    assert_close(got, expected, 1e-6)  # what differences with steps of 1e-4 resolve


@pytest.mark.parametrize("name", ["layer_norm", "batch_norm_train"])
def test_what_is_right_through_a_norm_is_not_refused(name):
    case = MODULES[name]()
    leaf = tree.map(lambda p: p.clone().requires_grad_(), case.params)
    assert curvature(case.loss, case)(leaf).requires_grad  # a curvature that nobody differentiates
    torch.func.grad(lambda p: quadratic_along(case.loss)(p, case.direction, *case.args).slope)(case.params)
    stacked = tree.map(lambda d: torch.stack([d, 2 * d]), case.direction)
    both = torch.func.vmap(lambda d: quadratic_along(case.loss)(case.params, d, *case.args).curvature)(stacked)
    assert_close(both[1], 4 * both[0], 1e-12)


@pytest.mark.parametrize("name", ["mlp", "batch_norm_eval", "dropout", "conv"])
def test_a_third_derivative_that_is_right_is_given(name):
    case = MODULES[name]()
    along, expected = slope_of_the_curvature(case)
    got = tree.vdot(torch.func.grad(curvature(case.loss, case))(case.params), along)
    assert_close(got, expected, 1e-6, 1 + abs(expected))


def test_a_strategy_wrong_on_a_norm_is_refused_at_a_first_call_under_grad():
    case = MODULES["layer_norm"](criterion=squared_error)
    quadratic = quadratic_along(case.loss, strategy="forward_over_forward")
    with pytest.raises(StrategyError, match=r"forward_over_forward.*native_layer_norm"):
        torch.func.grad(lambda p: quadratic(p, case.direction, *case.args).curvature)(case.params)


def bias_alone(b, x):
    return F.layer_norm(x, b.shape, None, b).square().sum()


def test_double_backward_of_a_bias_alone_after_a_normalisation_is_refused():
    x, b = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    with pytest.raises(StrategyError, match=r"native_layer_norm.*forward_over_reverse"):
        quadratic_along(bias_alone, strategy="reverse_over_reverse")(b[0], b[1], x)
    for exact in (
        quadratic_along(bias_alone, strategy="forward_over_reverse"),
        quadratic_along(capture(bias_alone)),
    ):
        assert_close(exact(b[0], b[1], x).curvature, 2 * len(x) * b[1] @ b[1], 1e-14)


@pytest.mark.parametrize("constant", [torch.floor, torch.sign, torch.round])
def test_so_is_that_of_a_bias_whose_input_moves_and_has_no_derivative(constant):
    x, b = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()

    def loss(p):
        return F.batch_norm(constant(p["x"]), None, None, None, p["b"], training=True).square().sum()

    params, d = {"x": x, "b": b[0]}, {"x": b, "b": b[1]}
    with pytest.raises(StrategyError, match=r"native_batch_norm.*forward_over_reverse"):
        quadratic_along(loss)(params, d)
    for exact in (quadratic_along(loss, strategy="forward_over_reverse"), quadratic_along(capture(loss))):
        assert_close(exact(params, d).curvature, 2 * len(x) * b[1] @ b[1], 1e-14)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("strided", [lambda w: w[:1].expand(4), lambda w: w.repeat_interleave(2)[::2]])
def test_a_weight_that_batch_normalisation_reads_wrongly_is_refused(strided, training):
    x, b = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    statistics = (None, None) if training else (b[1], b[2].exp())

    def loss(x, w):
        return F.batch_norm(x, *statistics, w, training=training).exp().sum()

    with pytest.raises(StrategyError, match="native_batch_norm"):
        quadratic_along(loss)(x, b, strided(b[0]))
    got = quadratic_along(capture(loss))(x, b, strided(b[0]))
    expected = quadratic_along(loss)(x, b, strided(b[0]).contiguous())
    for number, want in zip(got, expected, strict=True):
        assert_close(number, want, 1e-12)


class SquaredByItsOwnJvp(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent * ctx.saved_tensors[0]


@pytest.mark.filterwarnings("ignore:the second derivative")
def test_nested_forward_mode_through_a_jvp_of_its_own_is_refused():
    x = torch.ones(3)
    with pytest.raises(StrategyError, match=r"own_jvp.*with a jvp of its own.*reverse_over_reverse"):
        quadratic_along(lambda x: SquaredByItsOwnJvp.apply(x).sum(), strategy="forward_over_forward")(x, x)
    for name in STRATEGIES.keys() - {"forward_over_forward"}:
        assert quadratic_along(lambda x: SquaredByItsOwnJvp.apply(x).sum(), strategy=name)(x, x).curvature == 6


OF_SYMMETRIC = {
    "cholesky": lambda a: torch.linalg.cholesky(a).sin().sum(),
    "eigvalsh": lambda a: torch.linalg.eigvalsh(a).sin().sum(),
    "eigh": lambda a: torch.linalg.eigh(a)[1].abs().sin().sum(),
}


@pytest.mark.parametrize("name", OF_SYMMETRIC)
def test_a_function_of_a_symmetric_matrix_goes_along_the_symmetric_part(name):
    loss = OF_SYMMETRIC[name]
    a, d = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    a = a @ a.mT + torch.diag(torch.arange(1.0, 4).double())
    truth, scale = double_backward(loss, a, (d + d.mT) / 2)
    captured = capture(loss)
    plain = quadratic_along(loss, strategy="reverse_over_reverse")
    along = grad_and_quadratic(captured, lambda g: d)
    for found in (plain(a, d), quadratic_along(captured)(a, d), along(a).quadratic):
        for got, want in zip(found, truth, strict=True):
            assert_close(got, want, 1e-10, 1 + scale)
    for other in STRATEGIES.keys() - {"reverse_over_reverse"}:
        with pytest.raises(StrategyError, match=r"treats its matrix as symmetric.*reverse_over_reverse"):
            quadratic_along(loss, strategy=other)(a, d)


class Hiding(torch.autograd.Function):
    """exp(x) times what ``read`` gives, whose gradient it writes by itself, as a reentrant checkpoint does."""

    @staticmethod
    def forward(ctx, x, read):
        ctx.save_for_backward(x)
        return x.exp() * read()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.exp(), None


def between(w):
    """What is differentiated within, of what is given, is hidden from nobody."""
    with torch.enable_grad():
        return (w.detach().requires_grad_() * 2).sin().sum().detach()


HIDDEN = {
    "a parameter": (lambda w: lambda: w, r"a parameter of shape \(3,\)"),
    "a view of a parameter": (lambda w: lambda: w[1:2], r"a parameter of shape"),
    "a tensor made of one": (lambda w: (lambda made: lambda: made)(w[:1] * 2), r"a tensor of shape \(1,\)"),
    "a detached one": (lambda w: (lambda made: lambda: made)((w[:1] * 2).detach()), None),
    "one made within": (lambda w: (lambda made: lambda: between(made))((w[:1] * 2).detach()), None),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.filterwarnings("ignore:the second derivative of")
def test_what_a_function_hides_from_autograd_is_refused(name):
    make, message = HIDDEN[name]

    def loss(params, x):
        return Hiding.apply(params["v"] * x, make(params["w"])).sum()

    params = {"v": torch.ones(3), "w": torch.linspace(1, 2, 3)}
    transform = quadratic_along(loss, strategy="reverse_over_reverse")
    for _ in range(2):
        if message is None:
            transform(params, params, torch.ones(3))
        else:
            with pytest.raises(StrategyError, match=f"Hiding reads {message}.*not one of its arguments"):
                transform(params, params, torch.ones(3))


# A loss that is another one at every call


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return [torch.tensor(self.calls / 100, dtype=torch.float64)]


ROWS = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
CHANGING = {
    "an iterator": lambda: (lambda rows: rows, iter(ROWS)),
    "a map": lambda: (lambda rows: rows, map(torch.sin, ROWS)),
    "a counter": lambda: (lambda count: count(), Counting()),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CHANGING)
def test_a_loss_that_changes_from_call_to_call_is_refused(name, strategy):
    def loss(w, rows):
        return w.square().sum() + sum((row * w).sum() for row in read(rows))

    read, given = CHANGING[name]()
    w = torch.tensor([1.0, 2.0], dtype=torch.float64)
    with pytest.raises(ImpureLossError, match=r"at one call, and .* at the next"):
        quadratic_along(loss, strategy=strategy)(w, w, given)
