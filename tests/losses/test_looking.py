"""A loss reads its parameters through its argument, writes to nothing that it has not made, and draws from torch."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, hvp, quadratic_along, tree
from alpha_func.errors import CaptureError, ImpureLossError, StrategyError
from alpha_func.transforms import STRATEGIES

WAYS = {
    "the loss": lambda loss, p, *batch: loss(p, *batch),
    "quadratic_along": lambda loss, p, *batch: quadratic_along(loss)(p, p, *batch),
    "hvp": lambda loss, p, *batch: hvp(loss)(p, p, *batch),
    "grad_and_quadratic": lambda loss, p, *batch: grad_and_quadratic(loss)(p, *batch),
    "under torch.func": lambda loss, p, *batch: torch.func.grad(loss)(p, *batch),
    "captured": lambda loss, p, *batch: quadratic_along(capture(loss))(p, p, *batch),
}


class Net(nn.Module):
    """A layer, and a second use of its weight, by a way that ``keep`` made."""

    def __init__(self, keep, read):
        super().__init__()
        self.layer, self.read = nn.Linear(3, 3), read
        keep(self)

    def forward(self, x):
        return self.layer(x).tanh() @ self.read(self)


def keep(make):
    return lambda m: m.__dict__.update(kept=make(m.layer.weight))


ALIASES = {
    "a view": (keep(lambda w: w.T), lambda m: m.kept),
    "a detached view": (keep(lambda w: w.detach()[:, :2]), lambda m: m.kept),
    "its .data": (keep(lambda w: w.data), lambda m: m.kept),
    "a list": (keep(lambda w: [w]), lambda m: m.kept[0]),
    "a lambda": (keep(lambda w: lambda: w * 2), lambda m: m.kept()),
    "a buffer": (lambda m: m.register_buffer("kept", m.layer.weight.detach()), lambda m: m.kept),
    "numpy": (keep(lambda w: w.detach().numpy()), lambda m: torch.from_numpy(m.kept)),
    "a dict in a tuple": (keep(lambda w: ({"w": w.detach().view(-1)},)), lambda m: m.kept[0]["w"].view(3, 3)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ALIASES)
def test_a_weight_that_is_read_through(name, way):
    module, x = Net(*ALIASES[name]), torch.ones(2, 3)
    loss, params = functional_loss(module, nn.MSELoss())
    with pytest.raises((ImpureLossError, CaptureError), match=r"layer\.weight|closes over a tensor"):
        WAYS[way](loss, params, x, torch.ones(()).expand(module(x).shape))


@pytest.mark.parametrize("way", WAYS)
def test_a_list_of_parameters_in_a_criterion(way):
    module, x = nn.Linear(3, 3), torch.ones(2, 3)
    own = list(module.parameters())
    loss, params = functional_loss(module, lambda out, y: F.mse_loss(out, y) + sum(p.square().sum() for p in own))
    with pytest.raises((ImpureLossError, CaptureError), match=r"weight|closes over a tensor"):
        WAYS[way](loss, params, x, x)


def test_a_function_that_closes_over_its_own_parameters():
    module, x = nn.Linear(3, 3), torch.ones(2, 3)
    params = tree.map(torch.detach, dict(module.named_parameters()))
    with pytest.raises(ImpureLossError, match=r"params\['weight'\].*clone if it is constant"):
        quadratic_along(lambda p, x: (p["weight"] * module.weight).sum() * x.sum())(params, params, x)


def test_parameters_read_through_the_module_are_differentiated():
    module, x = nn.Linear(3, 3).double(), torch.ones(2, 3).double()
    loss, params = functional_loss(
        module, lambda out, y: sum(p.square().sum() for p in module.parameters()) + 0 * out.sum()
    )
    line = quadratic_along(loss)(params, params, x, x)
    torch.testing.assert_close(line.curvature, 2 * tree.vdot(params, params))


@pytest.mark.parametrize("wrap", [lambda f: f, capture], ids=["plain", "captured"])
def test_parameters_given_as_an_argument_are_constants(wrap):
    params = {"w": torch.ones(3)}
    line = quadratic_along(wrap(lambda p, anchor: (p["w"] - anchor).square().sum()))(params, params, params["w"])
    assert [float(number) for number in line] == [0.0, 0.0, 6.0]


def test_an_alias_that_comes_later_is_refused_when_it_comes():
    module, x = nn.Linear(3, 3), torch.ones(2, 3)
    module.extra = torch.eye(3)
    module.register_forward_hook(lambda m, args, out: out @ m.extra)
    loss, params = functional_loss(module, nn.MSELoss())
    loss(params, x, x)
    module.extra = module.weight.detach()
    with pytest.raises(ImpureLossError, match="parameter weight"):
        loss(params, x, x)


def with_a_list(module, x, turn):
    own = list(module.parameters())
    loss, params = functional_loss(module, lambda out, y: F.mse_loss(out, y) + (own[0].sum() if turn else 0))
    return loss, params, lambda: turn.append(1)


def with_an_attribute(module, x, turn):
    module.extra = torch.eye(3)
    module.register_forward_hook(lambda m, args, out: out @ m.extra)
    return *functional_loss(module, nn.MSELoss()), lambda: setattr(module, "extra", module.weight.detach())


def with_a_closure(module, x, turn):
    params = tree.map(torch.detach, dict(module.named_parameters()))
    return lambda p, x, y: (module.weight if turn else p["weight"]).sum(), params, lambda: turn.append(1)


@pytest.mark.parametrize("make", [with_a_list, with_an_attribute, with_a_closure])
def test_a_captured_loss_that_comes_to_read_a_weight_another_way(make):
    x, turn = torch.ones(2, 3), []
    loss, params, change = make(nn.Linear(3, 3), x, turn)
    captured = capture(loss)
    for _ in range(2):
        loss(params, x, x)
        captured(params, x, x)
    change()
    with pytest.raises(ImpureLossError, match=r"the memory of parameter .*weight.*a clone if it is constant"):
        captured(params, x, x)


# What a loss writes to


WRITES = {
    "its input": lambda m, x: x.mul_(2),
    "a view of its input": lambda m, x: x[:, 0].zero_(),
    "its input by out=": lambda m, x: torch.add(x, 1, out=x),
    "a weight": lambda m, x: m.layer.weight.data.mul_(2),
    "a weight in no_grad": lambda m, x: torch.no_grad()(m.layer.bias.add_)(1),
    "a frozen weight": lambda m, x: m.frozen.data.add_(1),
    "a closed-over tensor": lambda m, x: CLOSED_OVER.add_(1),
}
CLOSED_OVER = torch.zeros(3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WRITES)
def test_a_loss_that_writes_to(name, way):
    class Writer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, x):
            WRITES[name](self, x)
            return self.layer(x) * self.frozen

    module, x = Writer(), torch.ones(2, 3)
    loss, params = functional_loss(module, nn.MSELoss())
    tensors = [*module.parameters(), x, CLOSED_OVER]
    before = [tensor.detach().clone() for tensor in tensors]
    errors = (ImpureLossError, CaptureError)
    if way == "under torch.func":
        errors = (*errors, RuntimeError)  # PyTorch's own
    with pytest.raises(errors):
        WAYS[way](loss, params, x, torch.ones(2, 3))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_the_refusal_of_a_write_names_line_and_remedy():
    def loss(p, x):
        return (p * x.mul_(2)).sum()

    with pytest.raises(
        ImpureLossError, match=r"changes an argument, of shape \(3,\).*test_looking.py.*x\.mul_.*a clone"
    ):
        quadratic_along(loss)(torch.ones(3), torch.ones(3), torch.ones(3))


def test_a_loss_may_write_to_what_it_made():
    def loss(p, x):
        made = torch.zeros(3)
        made[:2] = 1
        y = x.clone().mul_(2).add_(made)
        return (p * y).square().sum()

    line = quadratic_along(loss)(torch.ones(3), torch.ones(3), torch.ones(3))
    assert [float(number) for number in line] == [22.0, 44.0, 44.0]


# What a loss draws from


@pytest.mark.parametrize(("name", "draw"), [("random", random.random), ("numpy.random", np.random.rand)])
def test_a_loss_that_draws_from_another_generator(name, draw):
    before = random.getstate(), np.random.get_state()[2]
    loss, params = functional_loss(nn.Linear(3, 3), lambda out, y: draw() * out.sum())
    for way in ("the loss", "quadratic_along", "under torch.func"):
        with pytest.raises(ImpureLossError, match=f"draws from {name},.*torch.rand"):
            WAYS[way](loss, params, torch.ones(2, 3), None)
    assert (random.getstate(), np.random.get_state()[2]) == before


# A loss that is another one under a transform


def of_a_batch_with_grad(net):
    def loss(p, x):
        u = torch.func.functional_call(net, p, (x,))
        (g,) = torch.autograd.grad(u.sum(), x, create_graph=True, allow_unused=True)
        return ((g if g is not None else 0 * x) - 1).square().mean() + u.square().mean()

    return loss


def depends_on_requires_grad(p, x):
    return p.square().sum() * (2.0 if x.requires_grad and not torch._C._functorch.peek_interpreter_stack() else 1.0)


def changes_from_call_to_call(calls=iter(range(100))):  # noqa: B008
    return lambda p, x: p.square().sum() * (1 + next(calls))


@pytest.mark.parametrize("way", ["quadratic_along", "hvp", "grad_and_quadratic"])
def test_a_value_that_differs_under_a_transform_is_an_error(way):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    x = torch.randn(5, 2).double().requires_grad_()
    params = {name: p.detach() for name, p in net.named_parameters()}
    for loss, operand in (
        (of_a_batch_with_grad(net), params),
        (depends_on_requires_grad, torch.ones(2)),
    ):
        with pytest.raises(
            ImpureLossError, match=r"the \w+ of the loss is .* under torch\.func, and .* when it is called directly"
        ):
            WAYS[way](loss, operand, x)


@pytest.mark.parametrize("way", ["quadratic_along", "hvp", "grad_and_quadratic"])
def test_a_value_that_differs_from_call_to_call_is_an_error(way):
    with pytest.raises(ImpureLossError, match=r"at one call, and .* at the next"):
        WAYS[way](changes_from_call_to_call(), torch.ones(2), None)


def test_a_slope_that_differs_under_a_transform_is_an_error():
    def loss(p):
        under = torch._C._functorch.peek_interpreter_stack() is not None
        return (p.detach() if under else p).square().sum()

    with pytest.raises(ImpureLossError, match="the slope of the loss"):
        quadratic_along(loss)(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_write_to_a_parameter_is_refused_before_it_happens(strategy):
    p = {"w": torch.tensor([0.5, 1.0])}
    with pytest.raises(ImpureLossError, match=r"changes a parameter.* change a clone of it"):
        quadratic_along(lambda p: p["w"].mul_(2).sum(), strategy=strategy)(p, p)
    assert p["w"].tolist() == [0.5, 1.0]


@pytest.mark.filterwarnings("ignore::alpha_func.errors.CaptureWarning")
@pytest.mark.parametrize("of", [lambda loss: loss, capture], ids=["plain", "captured"])
def test_statistics_of_a_normalisation_are_refused_where_they_are_used(of):
    def loss(p):
        return torch.native_layer_norm(p, (3,), None, None, 1e-5)[1].sum()

    with pytest.raises((StrategyError, CaptureError), match=r"treats them as constants.* use torch\.var_mean"):
        quadratic_along(of(loss))(torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize("norm", [torch.nn.GroupNorm(2, 4), torch.nn.LayerNorm(4), torch.nn.BatchNorm1d(4)])
def test_a_backward_pass_may_use_the_statistics_of_a_normalisation(norm):
    loss, params = functional_loss(torch.nn.Sequential(torch.nn.Linear(3, 4), norm), torch.nn.MSELoss())
    batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 4)
    found, swept = quadratic_along(loss)(params, params, *batch), quadratic_along(capture(loss))(params, params, *batch)
    torch.testing.assert_close(found, swept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrap", [lambda f: f, capture], ids=["plain", "captured"])
def test_running_statistics_that_a_loss_closes_over_are_not_written(wrap):
    mean, var = torch.zeros(2), torch.ones(2)

    def loss(w, x):
        return F.batch_norm(x @ w, mean, var, training=True).tanh().square().sum()

    quadratic, w = quadratic_along(wrap(loss)), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ImpureLossError, match="native_batch_norm"):
        quadratic(w, w, torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    assert mean.tolist() == [0, 0]
    assert var.tolist() == [1, 1]
