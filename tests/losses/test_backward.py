"""What makes a backward pass differ from the derivative: one meaning on every path, or a refusal."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.errors import CaptureError, ImpureLossError
from alpha_func.losses.module_loss import Watched
from alpha_func.torch_private import peek_interpreter_stack
from alpha_func.transforms import STRATEGIES
from alpha_func.verified.formulas import nodes_of
from tests.helpers.reference import double_backward, flat


class Hooked(nn.Module):
    def __init__(self, register):
        super().__init__()
        self.a, self.b, self.register = nn.Linear(3, 4), nn.Linear(4, 2), register

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if h.requires_grad and self.register is not None:
            self.register(h)
        return self.b(h)


FIRED = []


def assert_near(got, expected, tol):
    torch.testing.assert_close(got, expected, rtol=tol, atol=tol)


ON_TENSORS = {
    "register_hook": lambda h: h.register_hook(lambda g: FIRED.append(1) or 0.5 * g),
    "retained": lambda h: h.register_hook(lambda g: FIRED.append(1)),
}


def batch():
    torch.manual_seed(1)
    return torch.randn(8, 3).double(), torch.randn(8, 2).double()


def module_of(register=None):
    torch.manual_seed(0)
    return Hooked(register).double()


def line(module, wrap=lambda f: f, **options):
    loss, params = functional_loss(module, nn.MSELoss())
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(2))
    return flat(tuple(quadratic_along(wrap(loss), **options)(params, d, *batch())))


@pytest.mark.parametrize("strategy", ["reverse_over_reverse", "reverse_over_forward", "forward_over_forward"])
@pytest.mark.parametrize("name", ON_TENSORS)
def test_hooks_on_gradients_are_no_part_of_a_loss(name, strategy):
    FIRED.clear()
    assert_near(line(module_of(ON_TENSORS[name]), strategy=strategy), line(module_of()), 1e-12)
    assert FIRED == []


@pytest.mark.parametrize("wrap", [lambda f: f, capture], ids=["plain", "captured"])
@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_of_modules_are_not_run_and_stay(register, wrap):
    FIRED.clear()
    module = module_of()
    getattr(module.b, register)(lambda *args: FIRED.append(1))
    assert_near(line(module, wrap), line(module_of()), 1e-12)
    assert FIRED == []
    F.mse_loss(module(batch()[0]), batch()[1]).backward()
    assert FIRED == [1]


GLOBAL = ["register_module_full_backward_hook", "register_module_full_backward_pre_hook"]


@pytest.mark.parametrize("wrap", [lambda f: f, capture], ids=["plain", "captured"])
@pytest.mark.parametrize("register", GLOBAL)
def test_backward_hooks_of_every_module_are_not_run_and_stay(register, wrap):
    FIRED.clear()
    handle = getattr(nn.modules.module, register)(lambda module, *grads: FIRED.append(1))
    try:
        assert_near(line(module_of(), wrap), line(module_of()), 1e-12)
        assert FIRED == []
        module_of()(batch()[0].requires_grad_()).sum().backward()
        assert FIRED
    finally:
        handle.remove()


ON_NODES = {
    "register_hook": lambda h: h.grad_fn.register_hook(lambda ins, outs: FIRED.append(1)),
    "register_prehook": lambda h: h.grad_fn.register_prehook(lambda outs: FIRED.append(1)),
    "of the node before": lambda h: h.grad_fn.next_functions[0][0].register_hook(lambda ins, outs: FIRED.append(1)),
    "of an edge": lambda h: torch.autograd.graph.get_gradient_edge(h).node.register_hook(lambda i, o: FIRED.append(1)),
}


@pytest.mark.parametrize("name", ON_NODES)
def test_hooks_on_nodes_of_the_graph_are_no_part_of_a_loss(name):
    FIRED.clear()
    for _ in range(2):
        assert_near(line(module_of(ON_NODES[name])), line(module_of()), 1e-12)
    assert FIRED == []


def test_a_graph_is_walked_in_as_many_steps_as_it_has_nodes():
    value = torch.ones((), requires_grad=True)
    with Watched():
        for _ in range(60):
            value = value + value  # two ways to each node: 2^60 in all
        assert nodes_of(value) == {"AddBackward0"}


def test_hooks_are_no_part_of_a_loss_that_takes_a_gradient_of_its_own():
    def loss_of(scale):
        def loss(model, x, y):
            x = x.clone().requires_grad_()
            h = model(x)
            h.register_hook(lambda g: scale * g)
            return F.mse_loss(h, y) + torch.autograd.grad(h.sum(), x, create_graph=True)[0].square().sum()

        return loss

    found = []
    for scale in (1, 3):
        loss, params = functional_loss(module_of(), loss_of=loss_of(scale))
        quadratic = quadratic_along(loss)
        d = tree.randn_like(params, generator=torch.Generator().manual_seed(2))
        found += [flat(tuple(quadratic(params, d, *batch()))) for _ in range(2)]
    for other in found[1:]:
        assert_near(other, found[0], 1e-12)


def test_a_loss_that_is_refused_once_is_refused_again():
    def loss(w, x, y):
        return F.mse_loss(x @ w, y) * (2 if peek_interpreter_stack() is not None else 1)

    quadratic, w = quadratic_along(loss), torch.ones(3, 2).double()
    for _ in range(2):
        with pytest.raises(ImpureLossError, match="something else while it is differentiated"):
            quadratic(w, w, *batch())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_hooks_are_no_part_of_a_plain_function(strategy):
    def loss(w, x, y, hook):
        h = torch.tanh(x @ w)
        if hook and h.requires_grad:
            h.register_hook(hook)
        return (h - y).square().sum()

    w = torch.randn(3, 2, generator=torch.Generator().manual_seed(3)).double()
    with_a_hook, without = (
        quadratic_along(loss, strategy=strategy)(w, w, *batch(), hook) for hook in (lambda g: 3 * g, None)
    )
    assert_near(flat(tuple(with_a_hook)), flat(tuple(without)), 1e-12)


# What autograd does not record


def without_a_graph(function):
    def held(net, w, x):
        with torch.no_grad():
            return function(net, w, x)

    return held


def copied(net, w, x):
    held = torch.zeros(8, 2, dtype=w.dtype)
    return held.copy_(net(w, x))


HELD = {
    "no_grad": without_a_graph(lambda net, w, x: net(w, x)),
    "decorated": lambda net, w, x: torch.no_grad()(net)(w, x),
    "copied": without_a_graph(copied),
    "transposed": lambda net, w, x: net(without_a_graph(lambda net, w, x: w.T)(net, w, x).T, x),
    "in_place": without_a_graph(lambda net, w, x: net(w, x).mul_(2).div_(2)),
    "data": lambda net, w, x: net(w, x).data,
    "data_of_the_weight": lambda net, w, x: net(w.data, x),
}


@pytest.mark.parametrize("recorded", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", HELD)
def test_what_autograd_does_not_record_is_constant(name, strategy, recorded):
    def net(w, x):
        return torch.tanh(x @ w)

    def loss(w, x, held):  # its value and slope are 0 whatever is constant, and its curvature is not
        return (net(w, x) - held(net, w, x)).square().sum()

    w, d = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(3)).double()
    x, _ = batch()
    truth = quadratic_along(loss)(w, d, x, lambda net, w, x: net(w, x).detach())
    with torch.set_grad_enabled(recorded):
        found = quadratic_along(loss, strategy=strategy)(w, d, x, HELD[name])
    assert truth.curvature > 1
    assert_near(flat(tuple(found)), flat(tuple(truth)), 1e-12)


@pytest.mark.parametrize("wrap", [lambda f: f, capture], ids=["plain", "captured"])
@pytest.mark.parametrize("recorded", [True, False], ids=["grad", "no_grad"])
def test_what_a_module_does_not_record_is_constant_in_gauss_newton(wrap, recorded):
    class Scaled(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                scale = self.weight.norm()
            return super().forward(x) / scale

    x, y = batch()
    loss, params = functional_loss(Scaled(3, 2).double(), nn.MSELoss())
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(2))
    with torch.set_grad_enabled(recorded):
        found = quadratic_along(wrap(loss), curvature="gauss_newton")(params, d, x, y)
    tangent = (x @ d["weight"].T + d["bias"]) / params["weight"].norm()
    assert_near(found.curvature, 2 * tangent.square().mean(), 1e-12)


# Embeddings


class Tokens(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.table, self.head = nn.Embedding(5, 3, **options), nn.Linear(3, 2)
        nn.init.normal_(self.table.weight)

    def forward(self, ids):
        return self.head(torch.tanh(self.table(ids)).mean(1))


class Constant(Tokens):
    """The same, its row 0 constant by ``detach``."""

    def forward(self, ids):
        found = F.embedding(ids, self.table.weight)
        found = torch.where((ids == 0)[..., None], found.detach(), found)
        return self.head(torch.tanh(found).mean(1))


def token_line(kind, wrap=lambda f: f, **options):
    torch.manual_seed(0)
    ids, y = torch.tensor([[0, 1, 2], [3, 0, 0]]), torch.randn(2, 2).double()
    torch.manual_seed(1)
    loss, params = functional_loss(kind.double(), nn.MSELoss())
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(2))
    step = grad_and_quadratic(wrap(loss), lambda g: d, **options)(params, ids, y)
    return flat([step.grads, tuple(quadratic_along(wrap(loss), **options)(params, d, ids, y))])


def tokens(kind, **options):
    torch.manual_seed(4)
    return kind(**options)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_padding_row_is_constant_under_every_strategy(strategy):
    if strategy == "forward_over_reverse":
        pytest.skip("PyTorch cannot run it on a mean squared error")
    got = token_line(tokens(Tokens, padding_idx=0), strategy=strategy)
    assert_near(got, token_line(tokens(Constant)), 1e-12)


@pytest.mark.parametrize("make", ["module", "function"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_padding_row_that_comes_later_is_constant_too(strategy, make):
    def loss_of(table, ids, y):
        return (torch.tanh(F.embedding(ids, table, padding_idx=0)).sum(1) - y).square().sum()

    torch.manual_seed(0)
    layer, y = nn.Embedding(4, 2, padding_idx=0).double(), torch.randn(2, 2).double()
    of_module = functional_loss(layer, loss_of=lambda layer, ids, y: loss_of(layer.weight, ids, y))[0]
    loss = {"module": of_module, "function": lambda p, ids, y: loss_of(p["weight"], ids, y)}[make]
    params = {"weight": torch.randn(4, 2).double()}
    quadratic = quadratic_along(loss, strategy=strategy)
    for ids in (torch.tensor([[1, 2], [3, 3]]), torch.tensor([[1, 0], [0, 3]])):
        truth, _ = double_backward(loss, params, params, ids, y)
        assert_near(flat(tuple(quadratic(params, params, ids, y))), flat(tuple(truth)), 1e-10)


def test_a_padding_row_is_constant_where_captured():
    assert_near(token_line(tokens(Tokens, padding_idx=-5), capture), token_line(tokens(Constant)), 1e-12)


@pytest.mark.parametrize("wrap", [lambda f: f, capture], ids=["plain", "captured"])
def test_a_sparse_gradient_is_dense_within_a_loss(wrap):
    got = token_line(tokens(Tokens, sparse=True), wrap)
    assert_near(got, token_line(tokens(Tokens)), 1e-12)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_gradients_scaled_by_frequency_are_refused(kind):
    with pytest.raises(ValueError, match=r"scale_grad_by_freq=True.*not the derivative.*set scale_grad_by_freq=False"):
        functional_loss(nn.Sequential(kind(5, 3, scale_grad_by_freq=True)), nn.MSELoss())


@pytest.mark.parametrize("wrap", [lambda f: f, capture], ids=["plain", "captured"])
def test_gradients_scaled_by_frequency_in_a_function_are_refused(wrap):
    ids, w = torch.tensor([0, 0, 1]), torch.ones(3, 2)
    with pytest.raises((ValueError, CaptureError), match="scale_grad_by_freq"):
        quadratic_along(wrap(lambda w, ids: F.embedding(ids, w, scale_grad_by_freq=True).square().sum()))(w, w, ids)


# Draws


class Noisy(nn.Module):
    def __init__(self, noise):
        super().__init__()
        self.layer, self.noise = nn.Linear(3, 2), noise

    def forward(self, x):
        return self.noise(torch.sigmoid(self.layer(x)))


DRAWS = {
    "normal": (
        lambda m: m + torch.normal(m, 0.1 + m),
        lambda m: m + torch.normal(m.detach(), 0.1 + m.detach()),
    ),
    "bernoulli": (lambda m: m * torch.bernoulli(m), lambda m: m * torch.bernoulli(m.detach())),
    "poisson": (lambda m: m * torch.poisson(m), lambda m: m * torch.poisson(m.detach())),
}


@pytest.mark.filterwarnings("ignore:the second derivative of poisson has never been verified")
@pytest.mark.parametrize("strategy", ["reverse_over_reverse", "forward_over_forward"])
@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_constant_in_its_parameters(name, strategy):
    drawn, constant = ([], [])
    for noise, into in zip(DRAWS[name], (drawn, constant), strict=True):
        torch.manual_seed(0)
        into.append(line(Noisy(noise).double(), strategy=strategy))
    assert_near(drawn[0], constant[0], 1e-12)
