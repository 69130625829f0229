"""Never silently wrong: a strategy that PyTorch gets wrong on an operator is refused before it runs."""

import re
import timeit
import warnings

import pytest
import torch
from cases import MODULES, mse_net
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from alpha_func import STRATEGIES, StrategyError, capture, functional_loss, hvp, quadratic_along, tree
from alpha_func.guard import Guard

WRONG = [
    ("layer_norm", "reverse_over_forward", "native_layer_norm"),
    ("layer_norm", "forward_over_forward", "native_layer_norm"),
    ("batch_norm_train", "reverse_over_forward", "native_batch_norm"),
    ("batch_norm_train", "forward_over_forward", "native_batch_norm"),
]


@pytest.mark.parametrize(("name", "strategy", "operator"), WRONG)
def test_strategy_that_is_wrong_on_a_norm_is_refused_and_a_right_one_named(name, strategy, operator):
    case = MODULES[name]()
    for transform in (quadratic_along, hvp):
        with pytest.raises(StrategyError, match=f"{strategy}.*{operator}.*'reverse_over_reverse'.*capture"):
            transform(case.loss, strategy=strategy)(case.params, case.direction, *case.args)


def weight_normed():
    torch.manual_seed(0)
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)).double()
    loss, params = functional_loss(net, nn.MSELoss())
    return loss, params, tree.randn_like(params), (torch.randn(8, 3).double(), torch.randn(8, 2).double())


def test_weight_norm_is_refused_under_the_default_strategy_in_favour_of_capture():
    loss, params, d, batch = weight_normed()
    with pytest.raises(StrategyError, match=r"reverse_over_reverse.*weight_norm_interface.*capture"):
        quadratic_along(loss)(params, d, *batch)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weight_norm_is_accepted_when_captured(strategy):
    loss, params, d, batch = weight_normed()
    quadratic_along(capture(loss), strategy=strategy)(params, d, *batch)


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

    quadratic_along(loss, strategy="forward_over_forward")(torch.ones(3), torch.ones(3), torch.randn(2, 3))


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


def test_later_looks_run_nothing():
    calls = 0

    def loss(x):
        nonlocal calls
        calls += 1
        return x.square().sum()

    guard = Guard(STRATEGIES["reverse_over_reverse"])
    for _ in range(3):
        guard(loss, torch.ones(2), (), {})
    assert calls == 1


def test_later_looks_are_cheap():
    case = mse_net()
    guard = Guard(STRATEGIES["reverse_over_reverse"])
    guard(case.loss, case.params, case.args, {})
    seconds = min(timeit.repeat(lambda: guard(case.loss, case.params, case.args, {}), number=200, repeat=5)) / 200
    assert seconds < 100e-6  # about 10 µs on a quiet machine
