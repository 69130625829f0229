"""Random draws: those of the module itself after ``torch.manual_seed``, however its loss is differentiated or run."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along
from alpha_func.capture.running import backends
from tests.helpers.cases import line
from tests.helpers.reference import assert_close, double_backward, flat
from tests.helpers.whole import a_few_of


def dropout_mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 8), nn.Dropout(0.6), nn.Linear(8, 4))


class Transposed(nn.Module):
    """Draws on an activation whose memory is not in the order of its indices."""

    def __init__(self, draw):
        super().__init__()
        self.linear, self.draw = nn.Linear(4, 4), draw

    def forward(self, x):
        y = self.linear(x).transpose(0, 1)
        return torch.tanh(self.draw(y) * y + self.draw(y)).transpose(0, 1)


NETS = {
    "MLP": dropout_mlp,
    "encoder layer": lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.2, batch_first=True),
    "encoder layer, sequence first": lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.2),
    "LSTM": lambda: Output(nn.LSTM(4, 4, num_layers=2, dropout=0.5, batch_first=True)),
    "Dropout1d": lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout1d(0.3)),
}
DRAWS = {
    "dropout": lambda y: F.dropout(y, 0.4),
    "dropout, in place": lambda y: F.dropout(y.clone(), 0.4, inplace=True),
    "torch.dropout": lambda y: torch.dropout(y, 0.4, True),
    "alpha_dropout": lambda y: F.alpha_dropout(y, 0.4, training=True),
    "feature_dropout": lambda y: F.dropout1d(y, 0.4),
    "bernoulli_": lambda y: torch.empty_like(y).bernoulli_(0.4),
    "bernoulli": lambda y: torch.bernoulli(y.detach().sigmoid()),
    "uniform_": lambda y: torch.empty_like(y).uniform_(),
    "normal_": lambda y: torch.empty_like(y).normal_(),
    "exponential_": lambda y: torch.empty_like(y).exponential_(),
    "rand_like": torch.rand_like,
    "randn": lambda y: torch.randn(y.shape, dtype=y.dtype),
    "multinomial": lambda y: torch.multinomial(torch.ones(4), 5, replacement=True).to(y)[:, None, None],
    "randperm": lambda y: torch.randperm(y.shape[2]).to(y),
}


class Output(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0]


def case_of(make):
    torch.manual_seed(0)
    return line(make(), nn.MSELoss(), torch.randn(3, 5, 4), torch.randn(3, 5, 4))


def assert_draws_are_the_modules(case, backend):
    module, (x, y) = case.loss.model.module, case.args
    torch.manual_seed(0)
    value = F.mse_loss(module(x), y)
    truth, norm = double_backward(case.loss, case.params, case.direction, x, y)
    scale = norm * flat(case.direction).norm()
    loss = capture(case.loss, backend=backend)
    steps = (
        quadratic_along(case.loss)(case.params, case.direction, x, y),
        quadratic_along(loss)(case.params, case.direction, x, y),
        grad_and_quadratic(loss, lambda _: case.direction)(case.params, x, y).quadratic,
    )
    assert_close(case.loss(case.params, x, y), value, 1e-15)
    for got in steps:
        assert_close(got.value, value, 1e-13)
        assert_close(got.slope, truth.slope, 1e-12, abs(truth.slope) + value)
        assert_close(got.curvature, truth.curvature, 1e-12, scale)


@pytest.mark.parametrize("name", NETS)
def test_net_draws_what_the_module_draws(name):
    assert_draws_are_the_modules(case_of(NETS[name]), "eager")


@pytest.mark.parametrize("name", a_few_of(["MLP", "encoder layer"], ["MLP"]))
def test_compiled_net_draws_what_the_module_draws(name, monkeypatch):
    monkeypatch.setattr(backends, "eager", None)  # so that nothing falls back to it
    assert_draws_are_the_modules(case_of(NETS[name]), "inductor")


@pytest.mark.parametrize("name", DRAWS)
def test_draw_on_a_transposed_activation_is_the_modules(name):
    assert_draws_are_the_modules(case_of(lambda: Transposed(DRAWS[name])), "eager")


def test_draws_of_a_compiled_program_are_its_inputs_in_their_order():
    case = case_of(dropout_mlp)
    program = capture(case.loss).program(case.params, *case.args)
    draws, rest = backends.draws_first(program.graph)
    assert [str(node.target) for node in draws.graph.nodes if backends.is_impure(node.target)] == [
        "aten.bernoulli.p"
    ] * 2
    assert not any(backends.is_impure(node.target) for node in rest.graph.nodes)
    torch.manual_seed(0)
    drawn = draws(*[torch.empty(0)] * len(program.graph.graph.find_nodes(op="placeholder")))  # no draw reads an input
    torch.manual_seed(0)
    expected = [torch.empty(3, 5, 8, dtype=torch.float64).bernoulli_(1 - p) for p in (0.3, 0.6)]
    assert all(torch.equal(got, want) for got, want in zip(drawn, expected, strict=True))


def test_every_member_of_a_vmapped_ensemble_has_the_plain_mask():
    case = case_of(lambda: Transposed(DRAWS["dropout"]))
    stacked = {name: torch.stack([leaf, 2 * leaf]) for name, leaf in case.params.items()}
    got = torch.func.vmap(case.loss, (0, None, None), randomness="same")(stacked, *case.args)
    for i, value in enumerate(got):
        expected = case.loss({name: leaf[i] for name, leaf in stacked.items()}, *case.args)
        assert_close(value, expected, 1e-14)


def test_another_seed_is_another_draw():
    torch.manual_seed(0)
    net, x = dropout_mlp(), torch.randn(2, 4)
    values = [
        capture(functional_loss(net, nn.MSELoss(), seed=s)[0])(dict(net.named_parameters()), x, x) for s in (0, 1)
    ]
    assert values[0] != values[1]
