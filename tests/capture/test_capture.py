"""A captured loss is the loss, exact under every strategy, or refused with a reason."""

import warnings
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.errors import CaptureError
from alpha_func.transforms import STRATEGIES
from tests.helpers.cases import MODULES, mlp, mse_net
from tests.helpers.models import regression
from tests.helpers.reference import assert_close, assert_quadratic, dense, dense_with_math_attention

X = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(3, 4)


@pytest.mark.parametrize("name", MODULES)
def test_captured_value_is_that_of_the_loss(name):
    case = MODULES[name]()
    assert_close(capture(case.loss)(case.params, *case.args), case.loss(case.params, *case.args), 1e-14)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", MODULES)
def test_every_strategy_is_exact_on_captured(name, strategy):
    case, truth = with_truth(name)
    got = quadratic_along(capture(case.loss), strategy=strategy)(case.params, case.direction, *case.args)
    assert_quadratic(got, truth, case.direction, 1e-12)


@cache
def with_truth(name):
    case = MODULES[name]()
    return case, dense_with_math_attention(case)


def test_captured_loss_is_differentiated_by_autograd():
    case = mse_net()
    params = tree.map(lambda p: p.clone().requires_grad_(), case.params)
    captured = capture(case.loss)
    grads = torch.autograd.grad(captured(params, *case.args), params.values())
    expected = torch.func.grad(case.loss)(case.params, *case.args)
    for got, want in zip(grads, expected.values(), strict=True):
        assert torch.allclose(got, want, rtol=1e-14, atol=1e-14)


def test_captured_loss_goes_through_vmap_at_its_first_call():
    case = mse_net()
    per_example = torch.func.vmap(capture(case.loss), (None, 0, 0))(case.params, *case.args)
    assert torch.allclose(per_example.mean(), case.loss(case.params, *case.args))


def test_captured_loss_takes_its_first_call_under_grad_of_a_transform():
    case = mse_net(activation=nn.Tanh)

    def alpha(loss):
        return torch.func.grad(lambda d: quadratic_along(loss)(case.params, d, *case.args).alpha)(case.direction)

    got, expected = alpha(capture(case.loss)), alpha(case.loss)
    for name, leaf in expected.items():
        assert torch.allclose(got[name], leaf, rtol=1e-10)


def test_grad_and_quadratic_takes_a_captured_loss():
    case = mse_net(activation=nn.Tanh)
    got = grad_and_quadratic(capture(case.loss))(case.params, *case.args)
    truth = dense(case.loss, case.params, *case.args)
    assert_quadratic(got.quadratic, truth, got.direction, 1e-12)


def test_second_call_with_a_signature_traces_nothing():
    case = mse_net()
    captured = capture(case.loss)
    program = captured.program(case.params, *case.args)
    assert captured.program(tree.scale(2, case.params), *case.args) is program


def test_smaller_last_batch_is_a_second_program():
    case = mse_net()
    captured = capture(case.loss)
    captured(case.params, *case.args)
    smaller = [arg[:5] for arg in case.args]
    assert_close(captured(case.params, *smaller), case.loss(case.params, *smaller), 1e-14)


def test_an_argument_that_is_no_tensor_is_in_the_signature_with_its_type():
    captured = capture(lambda x, power: (x**power).sum())
    for power in (2, 3, 2.0, True):
        assert_close(captured(X, power), (X**power).sum(), 1e-15)


def test_nested_params_and_keyword_arguments_keep_their_places():
    def loss(params, batch, *, weight):
        return (params[0] * batch["a"] - params[1]["b"] * weight * batch["c"][0]).sum()

    args = ([X, {"b": X + 1}], {"a": X + 2, "c": (X + 3, 7)})
    captured = capture(loss)
    for weight in (X + 4, 2.0):
        assert_close(captured(*args, weight=weight), loss(*args, weight=weight), 1e-15)


def test_buffers_are_read_anew_at_every_call():
    case = MODULES["batch_norm_eval"]()
    captured = capture(case.loss)
    captured(case.params, *case.args)
    case.loss.model.module[1].running_var.mul_(4)
    assert_close(captured(case.params, *case.args), case.loss(case.params, *case.args), 1e-14)
    case.loss.model.module[1].running_mean = torch.ones(6, dtype=torch.float64)
    assert_close(captured(case.params, *case.args), case.loss(case.params, *case.args), 1e-14)


def test_frozen_parameters_are_read_anew_at_every_call():
    case = MODULES["frozen"]()
    captured = capture(case.loss)
    captured(case.params, *case.args)
    case.loss.model.module[0].weight.data.mul_(2)
    assert_close(captured(case.params, *case.args), case.loss(case.params, *case.args), 1e-14)


class Scaled(nn.Module):
    """A plain tensor and a number as attributes."""

    def __init__(self):
        super().__init__()
        self.net, self.scales, self.power = nn.Linear(4, 1).double(), torch.ones(4, dtype=torch.float64), 2

    def forward(self, x):
        return (self.net(x * self.scales) ** self.power).mean()


def test_attributes_of_modules_are_read_anew_at_every_call():
    torch.manual_seed(0)
    module = Scaled()
    loss, params = functional_loss(module)
    captured = capture(loss)
    captured(params, X)
    module.scales = module.scales * 3
    assert_close(captured(params, X), loss(params, X), 1e-14)
    module.power = 4
    assert_close(captured(params, X), loss(params, X), 1e-14)


def test_the_mode_of_a_module_is_in_the_signature_of_a_loss_around_it_too():
    case = MODULES["batch_norm_train"]()

    def regularised(params, *batch):
        return case.loss(params, *batch) + params["0.weight"].square().sum()

    captured = capture(regularised)
    for mode in (True, False, True):
        case.loss.model.train(mode)
        assert_close(captured(case.params, *case.args), regularised(case.params, *case.args), 1e-14)


def test_closed_over_numbers_belong_to_the_signature():
    strength = 1.0

    def loss(x):
        return strength * x.square().sum()

    captured = capture(loss)
    captured(X)
    strength = 3.0
    assert_close(captured(X), loss(X), 1e-15)


def test_dropout_draws_as_uncaptured_and_leaves_the_rng_alone():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout1d(0.3), nn.Linear(8, 1)).double()
    loss, params = functional_loss(net, nn.MSELoss(), seed=5)
    captured, before = capture(loss), torch.get_rng_state()
    assert_close(captured(params, X, X[:, :1]), loss(params, X, X[:, :1]), 1e-14)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_of_a_transposed_activation_draws_as_the_transforms():
    # torch.func's dropout fills its mask in another order than plain torch does where strides are not contiguous
    case = regression(lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 3, 4)()
    expected = quadratic_along(case.loss)(case.params, case.direction, *case.args)
    got = quadratic_along(capture(case.loss))(case.params, case.direction, *case.args)
    for number, want in zip(got, expected, strict=True):
        assert_close(number, want, 1e-12)


def test_capturing_leaves_the_module_as_it_was():
    case = MODULES["batch_norm_train"]()
    norm = case.loss.model.module[1]
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    capture(case.loss)(case.params, *case.args)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])
        assert type(value) is type(before[name])


def frozen_in_part(x):
    with torch.no_grad():
        weight = x.exp()
    return (weight * x).sum()


@pytest.mark.parametrize(
    "loss",
    [lambda x: (x.detach() * x).sum(), lambda x: (x.data * x).sum(), frozen_in_part],
    ids=["detach", "data", "no_grad"],
)
def test_stopped_derivatives_stay_stopped(loss):
    got = torch.func.grad(capture(loss))(X)
    leaf = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert torch.equal(got, expected)


def test_gradient_penalty_is_captured():
    def loss(x):
        return torch.func.grad(lambda y: torch.tanh(y).prod(1).sum())(x).square().sum()

    d = torch.cos(X)
    got, expected = quadratic_along(capture(loss))(X, d), quadratic_along(loss)(X, d)
    for number, want in zip(got, expected, strict=True):
        assert_close(number, want, 1e-12)


def incomplete_gamma(x):
    return torch.special.gammainc(torch.ones_like(x), x.square()).sum()


def changes(x):
    x.mul_(2)
    return x.sum()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return 5 * grad


REFUSED = {
    "item": (lambda x: x.sum() * x.max().item(), "at test_capture.py:.*item"),
    "control_flow": (lambda x: x.sum() if x.sum() > 0 else -x.sum(), "control flow.*test_capture.py"),
    "data_dependent_shape": (lambda x: x[x > 0].sum(), "aten.nonzero.*test_capture.py.*torch.where"),
    "seeds": (lambda x: (torch.manual_seed(0), x.sum())[1], "seeds the global RNG"),
    "global_rng": (lambda x: (x * torch.rand_like(x)).sum(), "draws from the global RNG.*functional_loss"),
    "own_generator": (lambda x: (x * torch.rand(4, generator=torch.Generator())).sum(), "torch.Generator"),
    "in_place": (changes, "changes an argument in place"),
    "autograd_function": (lambda x: Doubled.apply(x).sum(), "autograd.Function is called at test_capture.py"),
    "incomplete_gamma": (incomplete_gamma, r"aten.igamma.*unverified=True"),
    "frequency": (
        lambda x: F.embedding(torch.arange(2), x, scale_grad_by_freq=True).sum(),
        "scale_grad_by_freq",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name):
    loss, reason = REFUSED[name]
    with pytest.raises((CaptureError, ValueError), match=reason):
        capture(loss)(X.clone())


def test_an_error_of_the_loss_itself_comes_through():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        capture(lambda x: (x @ x).sum())(X)
    with pytest.raises(ValueError, match="must return a scalar"):
        capture(lambda x: x)(X)


def test_autocast_is_refused():
    with torch.autocast("cpu"), pytest.raises(CaptureError, match="under autocast"):
        capture(lambda x: (x @ x.T).sum())(X)


def test_default_dtype_belongs_to_the_signature():
    captured = capture(lambda x: (torch.ones(4) / 3 * x).sum())
    captured(X)
    torch.set_default_dtype(torch.float64)
    try:
        assert_close(captured(X), X.sum() / 3, 1e-15)
    finally:
        torch.set_default_dtype(torch.float32)


def test_closed_over_tensors_are_inputs():
    held = X + 1
    captured = capture(lambda x: (x * held).sum())
    for held in (X + 1, X + 2):
        assert_close(captured(X), (X * held).sum(), 1e-15)
    held.mul_(2)
    assert_close(captured(X), (X * held).sum(), 1e-15)
    assert captured.captured == 1


def test_constants_made_by_the_loss_stay_in_the_program():
    assert_close(capture(lambda x: (x * torch.tensor([1.0, 2, 3, 4])).sum())(X), (X * torch.arange(1, 5)).sum(), 1e-15)


def test_unverified_operators_run_when_asked_for():
    assert_close(capture(incomplete_gamma, unverified=True)(X), incomplete_gamma(X), 1e-15)


def test_a_loss_that_keeps_being_captured_says_so_once():
    captured = capture(lambda x, step: (x * step).sum())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(130):
            captured(X, step)
    assert ["captured 64 times" in str(warning.message) for warning in caught] == [True]


def test_large_softplus_keeps_its_derivatives():
    x = torch.tensor([1e3, -1e3, 0.0], dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = quadratic_along(capture(lambda x: F.softplus(x).sum()))(x, torch.ones_like(x))
    assert_close(got.slope, torch.tensor(1.5), 1e-12)
    assert_close(got.curvature, torch.tensor(0.25), 1e-12)


def test_program_is_readable_and_counted():
    program = capture(lambda x: F.layer_norm(x, (4,)).square().sum()).program(X)
    assert "native_layer_norm(params" in str(program)
    assert program.counts["sum"] == 1


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend 'tpu' is unknown: choose from eager"):
        capture(lambda x: x.sum(), backend="tpu")


def test_same_network_captured_at_two_depths_shares_nothing():
    losses = [functional_loss(mlp([4, 3, 1]).double(), nn.MSELoss()) for _ in range(2)]
    values = [capture(loss)(params, X, X[:, :1]) for loss, params in losses]
    assert values[0] != values[1]


@pytest.mark.parametrize("name", ["no such module", "__main__", "math", None])
def test_executed_code_is_captured_with_the_globals_it_has(name):
    space = {} if name is None else {"__name__": name}
    exec("factor = 3.0\ndef part(x):\n    return factor * x\ndef loss(x):\n    return part(x).sum()", space)
    captured, x = capture(space["loss"]), torch.tensor([1.0, 2.0])
    assert captured(x) == 9
    space["factor"] = 5.0
    assert captured(x) == 15
