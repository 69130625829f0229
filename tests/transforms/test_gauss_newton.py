"""dᵀGd against the dense Jᵀ ∇²ψ J, by autograd in plain loops; and the losses that do not tell G."""

import math
from functools import partial

import pytest
import torch
from torch import func, nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, quadratic_along, tree
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.capture.sweeps.gauss_newton import gauss_newton_program
from alpha_func.data_sets import microbatched
from alpha_func.errors import CaptureError, CaptureWarning, StrategyError
from tests.capture.sweeps.test_counts import NETS, products
from tests.helpers.cases import MODULES, line, mlp, mse_net, sequences
from tests.helpers.reference import assert_close, double_backward, flat
from tests.helpers.whole import a_few_of
from tests.helpers.wrong_rules import plant

aten = torch.ops.aten
WAYS = {
    "plain": lambda loss: loss,
    "captured": lambda loss: capture(loss, strict=True),
    "chunked": lambda loss: microbatched(loss, 10),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
CRITERIA = {
    "cross entropy": (nn.CrossEntropyLoss(), lambda n, k: torch.arange(n) % k),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=1), lambda n, k: torch.arange(n) % k),
    "mse": (nn.MSELoss(), torch.randn),
    "mse by name": (F.mse_loss, torch.randn),
    "bce": (nn.BCEWithLogitsLoss(), torch.rand),
    "huber": (nn.HuberLoss(), torch.randn),
    "poisson": (nn.PoissonNLLLoss(), torch.rand),
    "own": (lambda z, y: ((z - y).tanh() ** 2).mean() + z.exp().mean(), torch.randn),
}


def case_of(name, net=None, n=12, dtype=torch.float64):
    torch.manual_seed(0)
    criterion, targets = CRITERIA[name]
    return line(net or mlp([4, 5, 3]), criterion, torch.randn(n, 4), targets(n, 3), dtype=dtype)


def dense_gauss_newton(case):
    """dᵀ Jᵀ ∇²ψ J d, of an explicit J and an explicit ∇²ψ."""
    model, (inputs, targets) = case.loss.model, case.args
    params = {name: p.clone().requires_grad_() for name, p in case.params.items()}
    z = func.functional_call(model.module, params, (inputs,))
    J = torch.stack([
        flat(torch.autograd.grad(entry, list(params.values()), retain_graph=True, materialize_grads=True))
        for entry in z.reshape(-1)
    ])  # fmt: skip
    at = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.criterion(at, targets), at, create_graph=True)
    rows = [torch.autograd.grad(s, at, retain_graph=True)[0].reshape(-1) for s in slope.reshape(-1)]
    t = J @ flat(case.direction)
    return t @ torch.stack(rows) @ t


@every_way
@pytest.mark.parametrize("name", a_few_of(CRITERIA, ["cross entropy", "mse", "bce", "own"]))
def test_gauss_newton_is_that_of_the_dense_jacobian_with(name, way):
    case = case_of(name)
    verb = quadratic_along(way(case.loss), curvature="gauss_newton")
    whole, norm = double_backward(case.loss, case.params, case.direction, *case.args)
    expected = dense_gauss_newton(case)
    for _ in range(2):  # proven at its own values, and then away from them
        got = verb(case.params, case.direction, *case.args)
        assert_close(got.curvature, expected, 1e-12)
        assert_close(got.value, whole.value, 1e-13)
        assert_close(got.slope, whole.slope, 1e-11, abs(whole.slope) + norm)


@pytest.mark.parametrize("name", a_few_of(MODULES, ["layer_norm", "batch_norm_train", "attention", "dropout"]))
def test_gauss_newton_goes_through_every_layer_captured_as_plainly_on(name):
    case = MODULES[name]()
    plain, captured = (
        quadratic_along(loss, curvature="gauss_newton")(case.params, case.direction, *case.args)
        for loss in (case.loss, capture(case.loss, strict=True))
    )
    torch.testing.assert_close(captured, plain, rtol=1e-11, atol=0)
    assert plain.curvature >= 0  # mean squares and cross entropies are convex
    whole = quadratic_along(case.loss)(case.params, case.direction, *case.args)
    torch.testing.assert_close(plain[:2], whole[:2], rtol=1e-10, atol=1e-12)


@every_way
@pytest.mark.parametrize("name", a_few_of(CRITERIA, ["cross entropy", "own"]))
def test_of_a_linear_module_gauss_newton_is_the_hessian_with(name, way):
    case = case_of(name, nn.Linear(4, 3))
    got = quadratic_along(way(case.loss), curvature="gauss_newton")(case.params, case.direction, *case.args)
    expected, _ = double_backward(case.loss, case.params, case.direction, *case.args)
    assert_close(got.curvature, expected.curvature, 1e-12)


# (probability, target) of the model's own distribution, by its outputs: all of them, but for the Gaussian, where two do
# for what is quadratic, and the Poisson, where the rest is below rounding.


def classes(p):
    return [(p[:, c], torch.full((len(p),), c)) for c in range(p.shape[1])]


def pairs(p, low=0.0):
    return [(p, torch.ones_like(p)), (1 - p, torch.full_like(p, low))]


def counts(z):
    return [(torch.exp(y * z - z.exp() - math.lgamma(y + 1)), torch.full_like(z, y)) for y in range(60)]


WEIGHTS = torch.linspace(0.5, 1.5, 3, dtype=torch.float64)
LIKELIHOODS = {
    "cross entropy": (nn.CrossEntropyLoss, {}, None, lambda z: classes(z.softmax(-1))),
    "smoothed cross entropy": (nn.CrossEntropyLoss, {"label_smoothing": 0.1}, None, lambda z: classes(z.softmax(-1))),
    "log-likelihood": (nn.NLLLoss, {}, nn.LogSoftmax(-1), lambda z: classes(z.exp())),
    "some targets ignored": (nn.NLLLoss, {"ignore_index": 1}, nn.LogSoftmax(-1), lambda z: classes(z.exp())),
    "binary, of logits": (nn.BCEWithLogitsLoss, {"weight": WEIGHTS}, None, lambda z: pairs(z.sigmoid())),
    "binary": (nn.BCELoss, {}, nn.Sigmoid(), pairs),
    "binary, weighted": (nn.BCELoss, {"weight": WEIGHTS}, nn.Sigmoid(), pairs),
    "squared errors": (nn.MSELoss, {}, None, lambda z: [(0.5, z + 0.5**0.5), (0.5, z - 0.5**0.5)]),
    "Poisson": (nn.PoissonNLLLoss, {}, None, counts),
    "soft margin": (nn.SoftMarginLoss, {}, None, lambda z: pairs(z.sigmoid(), -1.0)),
    "multilabel": (nn.MultiLabelSoftMarginLoss, {}, None, lambda z: pairs(z.sigmoid())),
}


def likelihood_of(name):
    torch.manual_seed(0)
    kind, options, tail, _ = LIKELIHOODS[name]
    net = mlp([4, 5, 3]) if tail is None else nn.Sequential(*mlp([4, 5, 3]), tail)
    of_classes = kind in (nn.CrossEntropyLoss, nn.NLLLoss)
    targets = torch.arange(12) % 3 if of_classes else torch.randint(2, (12, 3)).double()
    return line(net, kind(**options), torch.randn(12, 4), 2 * targets - 1 if kind is nn.SoftMarginLoss else targets)


@every_way
@pytest.mark.parametrize("name", a_few_of(LIKELIHOODS, ["cross entropy", "some targets ignored", "binary, weighted"]))
def test_the_fisher_information_is_the_mean_over_the_models_targets_with(name, way):
    case = likelihood_of(name)
    kind, options, _, drawn = LIKELIHOODS[name]
    module = case.loss.model.module
    z, t = func.jvp(lambda p: func.functional_call(module, p, case.args[:1]), (case.params,), (case.direction,))
    mean_of_squares = 0
    for probability, y in drawn(z):
        at = z.detach().requires_grad_()
        each = nn.BCEWithLogitsLoss if kind is nn.MultiLabelSoftMarginLoss else kind  # which means over labels itself
        scores = t * torch.autograd.grad(each(reduction="none")(at, y).sum(), at)[0]
        scores = scores.sum(-1) if y.ndim == 1 else scores
        mean_of_squares = mean_of_squares + probability * scores**2
    kept = case.args[1] != options["ignore_index"] if "ignore_index" in options else ...
    expected = (options.get("weight", 1) * mean_of_squares)[kept].mean()
    verb = quadratic_along(way(case.loss), curvature="fisher")
    whole, norm = double_backward(case.loss, case.params, case.direction, *case.args)
    for _ in range(2):
        got = verb(case.params, case.direction, *case.args)
        assert_close(got.curvature, expected, 1e-11)
        assert_close(got.value, whole.value, 1e-12)
        assert_close(got.slope, whole.slope, 1e-11, abs(whole.slope) + norm)


@pytest.mark.parametrize("way", [WAYS["plain"], capture], ids=["plain", "captured"])
def test_outputs_that_are_no_log_probabilities_have_no_fisher(way):
    case = line(nn.Linear(4, 3), nn.NLLLoss(), torch.randn(6, 4), torch.arange(6) % 3)
    with pytest.raises((StrategyError, CaptureError), match=r"not the probabilities.*end the module in LogSoftmax"):
        quadratic_along(way(case.loss), curvature="fisher")(case.params, case.direction, *case.args)


@pytest.mark.parametrize("name", NETS)
def test_gauss_newton_costs_three_products_a_layer_two_the_first_on(name):
    make, layers, firsts, activation_products = NETS[name]
    case = make()
    zero = torch.zeros((), dtype=torch.float64)
    program = capture(case.loss).program(case.params, *case.args, shift=zero)
    made = gauss_newton_program(program.graph, len(tree.leaves(case.params)))
    assert products(made) == (3 * layers + 2 * firsts, 3 * activation_products)


@every_way
def test_gauss_newton_goes_through_vmap_and_grad(way):
    case = mse_net(activation=nn.Tanh)
    verb = quadratic_along(way(case.loss), curvature="gauss_newton")
    once = verb(case.params, case.direction, *case.args)
    stacked = tree.map(lambda leaf: torch.stack([leaf, 3 * leaf]), case.direction)
    many = func.vmap(lambda d: verb(case.params, d, *case.args))(stacked)
    assert_close(many.curvature[1], 9 * once.curvature, 1e-12)
    step = 1e-5

    def along(a):
        return verb(tree.axpy(a, case.direction, case.params), case.direction, *case.args).curvature

    slope = func.grad(along)(torch.zeros((), dtype=torch.float64))
    assert_close(slope, (along(step) - along(-step)) / (2 * step), 1e-6, abs(once.curvature))


def test_a_module_without_forward_mode_is_pushed_by_two_pullbacks():
    case = sequences()
    plain, captured = (
        quadratic_along(loss, curvature="gauss_newton")(case.params, case.direction, *case.args)
        for loss in (case.loss, capture(case.loss, strict=True))
    )
    torch.testing.assert_close(captured, plain, rtol=1e-11, atol=0)


def test_outputs_may_be_nested():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 1)

        def forward(self, x):
            return {"class": self.a(x).tanh(), "size": (self.b(x), x[:, :3].argmax(-1))}

    def criterion(z, y):
        size, index = z["size"]
        return F.cross_entropy(z["class"] * size.exp(), index) + (size - y).square().mean()

    torch.manual_seed(0)
    case = line(Two(), criterion, torch.randn(6, 4), torch.randn(6, 1))
    plain, captured = (
        quadratic_along(loss, curvature="gauss_newton")(case.params, case.direction, *case.args)
        for loss in (case.loss, capture(case.loss, strict=True))
    )
    torch.testing.assert_close(captured, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_float32_or_better(dtype):
    case = case_of("mse", dtype=dtype)
    for loss in (case.loss, capture(case.loss)):
        got = quadratic_along(loss, curvature="gauss_newton")(case.params, case.direction, *case.args)
        assert {number.dtype for number in got} == {torch.float32}


def test_a_wrong_rule_is_found_by_the_proof_of_gauss_newton(monkeypatch):
    right = RULES[aten._log_softmax.default].second
    plant(monkeypatch, aten._log_softmax.default, second=lambda b, *x: b.call(aten.mul.Tensor, right(b, *x), 2))
    case = case_of("cross entropy")
    with pytest.warns(
        CaptureWarning, match="the Gauss-Newton program .* The cause is the derivative rule of aten._log_softmax"
    ):
        got = quadratic_along(capture(case.loss), curvature="gauss_newton")(case.params, case.direction, *case.args)
    assert_close(got.curvature, dense_gauss_newton(case), 1e-12)


# What is refused.


def no_criterion():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x).square().mean()

    return functional_loss(Own(3, 2))


REFUSED = {
    "a function": (lambda p: p.sum(), "gauss_newton", "this loss, a function, does not keep them apart: make it by"),
    "a module's own": (
        no_criterion()[0],
        "gauss_newton",
        "this loss, one of the module's own or of loss_of, does not keep",
    ),
    "no such matrix": (case_of("mse").loss, "ggn", "curvature 'ggn' is unknown: choose from hessian, gauss_newton"),
    "fisher of a huber": (case_of("huber").loss, "fisher", r"needs a criterion that is the negative .*; got HuberLoss"),
    "fisher of an own": (case_of("own").loss, "fisher", "got <lambda>"),
    "fisher of class weights": (
        functional_loss(nn.Linear(3, 2), nn.CrossEntropyLoss(weight=torch.ones(2)))[0],
        "fisher",
        "the class weights make its Hessian depend on the targets",
    ),
    "fisher of pos_weight": (
        functional_loss(nn.Linear(3, 2), nn.BCEWithLogitsLoss(pos_weight=torch.ones(2)))[0],
        "fisher",
        "pos_weight makes its Hessian depend on the targets",
    ),
    "fisher of a rate": (
        functional_loss(nn.Linear(3, 2), nn.PoissonNLLLoss(log_input=False))[0],
        "fisher",
        "PoissonNLLLoss is of a rate: use log_input=True",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("way", [WAYS["plain"], WAYS["captured"]], ids=["plain", "captured"])
def test_a_matrix_is_refused_of(kind, way):
    loss, curvature, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        quadratic_along(way(loss), curvature=curvature)


@pytest.mark.parametrize("way", [WAYS["plain"], WAYS["captured"]], ids=["plain", "captured"])
def test_a_criterion_that_reads_the_parameters_is_refused(way):
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    case = line(
        net, lambda z, y: (z - y).square().mean() + net.weight.square().sum(), torch.randn(6, 4), torch.randn(6, 3)
    )
    with pytest.raises((StrategyError, CaptureError), match="so the two cannot be separated"):
        quadratic_along(way(case.loss), curvature="gauss_newton")(case.params, case.direction, *case.args)


def test_a_criterion_by_function_and_options_has_the_fisher_of_its_module():
    case = case_of("smoothed")
    by_name = partial(F.cross_entropy, label_smoothing=0.1, ignore_index=1)
    loss, params = functional_loss(case.loss.model.module, by_name)
    operands = params, case.direction, *case.args
    got, expected = (quadratic_along(x, curvature="fisher")(*operands) for x in (loss, case.loss))
    assert torch.equal(got.curvature, expected.curvature)


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MSELoss])
def test_a_likelihood_with_a_forward_of_its_own_has_no_fisher(kind):
    own = type("Own", (kind,), {"forward": lambda self, z, y: (z - y).tanh().square().mean()})
    loss, params = functional_loss(nn.Linear(3, 2), own())
    with pytest.raises(ValueError, match=r"Own is a .* with a forward of its own"):
        quadratic_along(loss, curvature="fisher")(params, params, torch.ones(4, 3), torch.zeros(4, 2))
