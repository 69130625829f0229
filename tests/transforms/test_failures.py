"""What happens where PyTorch cannot run a strategy, and where the caller's own code fails."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import functional_loss, grad_and_quadratic, hvp, optimal_alpha, quadratic_along, tree
from alpha_func.errors import StrategyError
from alpha_func.transforms import STRATEGIES, reverse_over_reverse
from tests.helpers.cases import SelfAttention, mse_net, squared_error
from tests.helpers.reference import assert_close

VERBS = {
    "quadratic_along": lambda loss, p, **options: quadratic_along(loss, **options)(p, p),
    "optimal_alpha": lambda loss, p, **options: optimal_alpha(loss, **options)(p, p),
    "hvp": lambda loss, p, **options: hvp(loss, **options)(p, p),
    "grad_and_quadratic": lambda loss, p, **options: grad_and_quadratic(loss, **options)(p),
}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
FORWARD = ("reverse_over_forward", "forward_over_forward")


def lstm():
    torch.manual_seed(0)
    loss, params = functional_loss(nn.LSTM(3, 2, batch_first=True), lambda outputs, y: squared_error(outputs[0], y))
    x, y = torch.randn(2, 4, 3), torch.randn(2, 4, 2)
    return lambda p: loss(p, x, y), params


def of_tensor(loss):
    return lambda: (loss, torch.linspace(-1, 1, 6))


MSE_LOSS = of_tensor(lambda p: F.mse_loss(torch.tanh(p), torch.ones(6)))
HUBER = of_tensor(lambda p: F.huber_loss(torch.tanh(p), torch.ones(6)))
GLU = of_tensor(lambda p: F.glu(p, 0).square().sum())
CTC = of_tensor(
    lambda p: F.ctc_loss(p.view(3, 1, 2).log_softmax(-1), torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1]))
)

# (loss, strategy, operator): PyTorch 2.13 on CPU
CANNOT_RUN = [
    (MSE_LOSS, "forward_over_reverse", "mse_loss"),
    (HUBER, "forward_over_reverse", "huber_loss"),
    (HUBER, "forward_over_forward", "huber_loss"),
    (GLU, "reverse_over_forward", "glu"),
    (GLU, "forward_over_forward", "glu"),
    *((lstm, strategy, "mkldnn_rnn_layer") for strategy in ("forward_over_reverse", *FORWARD)),
]


@pytest.mark.filterwarnings("ignore:the second derivative of mkldnn_rnn_layer has never been verified")
@every_verb
@pytest.mark.parametrize(
    ("make", "strategy", "operator"), CANNOT_RUN, ids=[f"{operator}-{name}" for _, name, operator in CANNOT_RUN]
)
def test_a_strategy_that_cannot_run_names_the_operator_and_one_that_does(make, strategy, operator, verb):
    loss, params = make()
    with pytest.raises(StrategyError, match=rf"strategy '{strategy}' cannot run here.*{operator}") as raised:
        verb(loss, params, strategy=strategy)
    named = re.search(r"use strategy='(\w+)', which runs on this loss", str(raised.value))[1]
    assert named != strategy
    verb(loss, params, strategy=named)
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.filterwarnings("ignore:the second derivative of mkldnn_rnn_layer has never been verified")
@pytest.mark.parametrize("make", [MSE_LOSS, HUBER, GLU, lstm], ids=["mse", "huber", "glu", "lstm"])
@every_verb
def test_the_default_strategy_runs_where_others_cannot(make, verb):
    assert all(torch.isfinite(leaf).all() for leaf in tree.leaves(verb(*make())))


@every_strategy
@every_verb
def test_where_no_strategy_runs_the_message_says_so(strategy, verb):
    with pytest.raises(
        StrategyError,
        match=r"ctc_loss.*no other strategy runs on this loss either, captured or not; write the operator",
    ):
        verb(*CTC(), strategy=strategy)


def test_a_strategy_given_as_a_function_is_named_as_well():
    with pytest.raises(StrategyError, match=r"strategy 'forward_over_reverse' cannot run here.*mse_loss"):
        quadratic_along(MSE_LOSS()[0], strategy=STRATEGIES["forward_over_reverse"])(torch.ones(6), torch.ones(6))


def test_the_error_is_explained_under_vmap_too():
    loss, params = MSE_LOSS()
    alpha = optimal_alpha(loss, strategy="forward_over_reverse")
    with pytest.raises(StrategyError, match=r"mse_loss.*use strategy='reverse_over_reverse'"):
        torch.func.vmap(lambda d: alpha(params, d))(torch.ones(3, 6))


def test_the_first_experiment_is_explained_through_its_module():
    case = mse_net(0)
    with pytest.raises(StrategyError, match=r"mse_loss.*use strategy='reverse_over_reverse'"):
        quadratic_along(case.loss, strategy="forward_over_reverse")(case.params, case.direction, *case.args)


def test_the_explanation_leaves_no_warning_and_no_mode_behind():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(StrategyError):
            quadratic_along(MSE_LOSS()[0], strategy="forward_over_reverse")(torch.ones(6), torch.ones(6))
    assert caught == []
    assert not torch.is_anomaly_enabled()


# Attention


@every_strategy
def test_the_callers_choice_of_a_fused_kernel_does_not_matter(strategy):
    torch.manual_seed(0)
    loss, params = functional_loss(SelfAttention().double(), squared_error)
    x, y, d = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 8).double(), tree.map(torch.ones_like, params)
    alpha = optimal_alpha(loss, strategy=strategy)
    expected = alpha(params, d, x, y)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        assert_close(alpha(params, d, x, y), expected, 1e-12)


# The caller's own errors


class OwnError(RuntimeError):
    """The caller's own."""


OWN_ERRORS = [
    OwnError("derivative for made_up is not implemented"),
    RuntimeError("the data has run out"),
    ValueError("a batch of size 3"),
    KeyError("w"),
    NotImplementedError("forward AD with made_up"),
    torch.OutOfMemoryError("no memory left"),
    KeyboardInterrupt(),
]
every_error = pytest.mark.parametrize("error", OWN_ERRORS, ids=lambda error: type(error).__name__)


@every_error
@every_strategy
@every_verb
def test_an_error_of_the_loss_comes_through_as_it_is(error, strategy, verb):
    def loss(params):
        raise error

    with pytest.raises(type(error)) as raised:
        verb(loss, torch.ones(2), strategy=strategy)
    assert raised.value is error


@every_error
def test_an_error_in_a_forward_comes_through_as_it_is(error):
    class Fails(nn.Linear):
        def forward(self, x):
            raise error

    loss, params = functional_loss(Fails(2, 1), squared_error)
    with pytest.raises(type(error)) as raised:
        quadratic_along(loss)(params, params, torch.ones(3, 2), torch.ones(3, 1))
    assert raised.value is error


@every_strategy
@every_verb
def test_a_shape_error_of_pytorch_in_the_loss_comes_through_as_it_is(strategy, verb):
    with pytest.raises(RuntimeError, match="must match the size") as raised:
        verb(lambda p: (p + torch.ones(3)).sum(), torch.ones(2), strategy=strategy)
    assert type(raised.value) is RuntimeError


@every_error
@every_verb
def test_an_error_of_the_callers_strategy_comes_through_as_it_is(error, verb):
    def strategy(loss, params, direction):
        raise error

    with pytest.raises(type(error)) as raised:
        verb(lambda p: p.sum(), torch.ones(2), strategy=strategy)
    assert raised.value is error


@every_verb
def test_an_error_of_pytorch_in_the_callers_strategy_comes_through(verb):
    def strategy(loss, params, direction):
        return STRATEGIES["forward_over_reverse"](loss, params, direction)

    with pytest.raises(RuntimeError, match="ZeroTensor") as raised:
        verb(*MSE_LOSS(), strategy=strategy)
    assert not isinstance(raised.value, StrategyError)


@every_error
@every_strategy
def test_an_error_of_the_direction_function_comes_through_as_it_is(error, strategy):
    def direction(grads):
        raise error

    with pytest.raises(type(error)) as raised:
        grad_and_quadratic(lambda p: (p**2).sum(), direction, strategy=strategy)(torch.ones(2))
    assert raised.value is error


def test_a_wrapped_default_strategy_is_the_default_strategy():
    loss, params = MSE_LOSS()
    assert quadratic_along(loss, strategy=lambda *operands: reverse_over_reverse(*operands))(
        params, params
    ) == quadratic_along(loss)(params, params)


@pytest.mark.filterwarnings("ignore:the second derivative of vmapped_times has never been verified")
def test_a_function_that_vmap_writes_is_no_raw_error_in_forward_mode():
    class Times(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x, y):
            return x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, λ):
            x, y = ctx.saved_tensors
            return λ * y, λ * x

    p, rows = torch.ones(2), torch.ones(3, 2)
    loss = torch.func.vmap(lambda row, p: Times.apply(row * p, p).sum(), in_dims=(0, None))
    with pytest.raises(StrategyError, match="use strategy='reverse_over_reverse', which runs"):
        quadratic_along(lambda p: loss(rows, p).sum(), strategy="forward_over_reverse")(p, p)
