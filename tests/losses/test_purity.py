"""``functional_loss`` makes a module a function, and no call changes anything it was given."""

import copy
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from alpha_func import capture, functional_loss, grad_and_quadratic, hvp, optimal_alpha, quadratic_along, tree
from alpha_func.errors import StrategyError
from alpha_func.transforms import STRATEGIES, steepest_descent
from tests.helpers.cases import MODULES, MSE, SelfAttention, Tied, Unused, frozen, mlp, normed, squared_error
from tests.helpers.reference import assert_close, assert_quadratic, dense, flat


class KeepsWhatItSees(nn.Module):
    """A forward that writes to its module: an attribute, a buffer, a buffer in place, and one of its own making."""

    def __init__(self):
        super().__init__()
        self.layer, self.last, self.calls = nn.Linear(3, 2), None, 0
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        y = self.layer(x)
        self.last, self.calls = y, self.calls + 1
        self.mean = 0.9 * self.mean + 0.1 * y.mean(0)
        self.count += 1
        self.register_buffer("late", y.detach())
        self.weight_norm = self.layer.weight.norm()
        return y / self.weight_norm


def flat_inputs(*shape, targets=2):
    return lambda: (torch.randn(8, *shape), torch.randn(8, *shape[:-1], targets))


VECTORS, SEQUENCES = flat_inputs(3), flat_inputs(5, 8, targets=8)
MODULES_AND_BATCHES = {
    "batch_norm_train": (normed(lambda: nn.BatchNorm1d(6)), VECTORS),
    "batch_norm_eval": (lambda: normed(lambda: nn.BatchNorm1d(6))().eval(), VECTORS),
    "dropout": (normed(lambda: nn.Dropout(0.5)), VECTORS),
    "spectral_norm": (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 2))), VECTORS),
    "old_spectral_norm": (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 2))), VECTORS),
    "weight_norm": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2))), VECTORS),
    "attention": (SelfAttention, SEQUENCES),
    "encoder_layer_train": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), SEQUENCES),
    "encoder_layer_eval": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), SEQUENCES),
    "unused": (Unused, VECTORS),
    "frozen": (frozen, VECTORS),
    "keeps_what_it_sees": (KeepsWhatItSees, VECTORS),
}
WRONG_UNCAPTURED = {"weight_norm"}  # PyTorch's double backward is wrong on it, and refused
VERBS = {
    "quadratic_along": lambda loss, p, d, *args, **options: quadratic_along(loss, **options)(p, d, *args),
    "optimal_alpha": lambda loss, p, d, *args, **options: optimal_alpha(loss, **options)(p, d, *args),
    "hvp": lambda loss, p, d, *args, **options: hvp(loss, **options)(p, d, *args),
    "grad_and_quadratic": lambda loss, p, d, *args, **options: grad_and_quadratic(loss, **options)(p, *args),
    "the loss": lambda loss, p, d, *args, **options: loss(p, *args),
}


class World:
    """A module and its batch, with a .grad on every parameter, and all about them and PyTorch that may change."""

    def __init__(self, make, batch, criterion=squared_error):
        torch.manual_seed(0)
        self.module, self.batch = make(), batch()
        for parameter in self.module.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.loss, self.params = functional_loss(self.module, criterion)
        self.direction = tree.randn_like(self.params, generator=torch.Generator().manual_seed(1))
        self.criterion = criterion if isinstance(criterion, nn.Module) else nn.Identity()

    def state(self):
        parts = [(name, part) for name, part in self.module.named_modules()]
        return {
            "state": {k: v.clone() for k, v in self.module.state_dict().items()},
            "identities": {(name, k): id(v) for name, part in parts for k, v in vars(part).items()},
            "parameters": {name: id(p) for name, p in self.module.named_parameters()},
            "buffers": {name: id(b) for name, b in self.module.named_buffers()},
            "requires_grad": {name: p.requires_grad for name, p in self.module.named_parameters()},
            "modes": {name: part.training for name, part in parts},
            "grads": {name: p.grad.clone() for name, p in self.module.named_parameters()},
            "criterion": {k: v.clone() for k, v in self.criterion.state_dict().items()},
            "operands": [t.clone() for t in tree.leaves((self.params, self.direction, self.batch))],
            "names": list(self.params),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "backends": (
                torch.backends.cuda.flash_sdp_enabled(),
                torch.backends.cuda.mem_efficient_sdp_enabled(),
                torch.backends.cuda.math_sdp_enabled(),
                torch.backends.cuda.cudnn_sdp_enabled(),
                torch.backends.mha.get_fastpath_enabled(),
            ),
            "modes of autograd": (
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.is_anomaly_enabled(),
            ),
        }


def assert_unchanged(before, after):
    assert before.keys() == after.keys()
    for what in before:
        same = tree.structure(before[what]) == tree.structure(after[what]) and all(
            torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            for a, b in zip(tree.leaves(before[what]), tree.leaves(after[what]), strict=True)
        )
        assert same, f"{what} changed from {before[what]} to {after[what]}"


# Nothing changes


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", MODULES_AND_BATCHES)
def test_no_call_changes_anything(name, verb):
    world = World(*MODULES_AND_BATCHES[name])
    before = world.state()
    loss = capture(world.loss) if name in WRONG_UNCAPTURED else world.loss
    VERBS[verb](loss, world.params, world.direction, *world.batch)
    assert_unchanged(before, world.state())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", MODULES_AND_BATCHES)
def test_no_strategy_changes_anything_whether_it_can_run_or_not(name, strategy):
    world = World(*MODULES_AND_BATCHES[name], MSE)
    before = world.state()
    for verb in VERBS.values():
        with suppress(StrategyError):
            verb(world.loss, world.params, world.direction, *world.batch, strategy=strategy)
        assert_unchanged(before, world.state())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", MODULES_AND_BATCHES)
def test_a_call_that_raises_midway_changes_nothing(name, verb):
    class Midway(Exception):  # noqa: N818
        pass

    def fails(outputs, targets):
        torch.randn(3)
        raise Midway

    world = World(*MODULES_AND_BATCHES[name], fails)
    before = world.state()
    with pytest.raises(Midway):
        VERBS[verb](world.loss, world.params, world.direction, *world.batch)
    assert_unchanged(before, world.state())


@pytest.mark.parametrize("name", MODULES_AND_BATCHES)
def test_a_direction_that_raises_changes_nothing(name):
    world = World(*MODULES_AND_BATCHES[name])
    before = world.state()
    loss = capture(world.loss) if name in WRONG_UNCAPTURED else world.loss
    with pytest.raises(ZeroDivisionError):
        grad_and_quadratic(loss, lambda grads: 1 / 0)(world.params, *world.batch)
    assert_unchanged(before, world.state())


def test_backends_that_the_caller_set_are_put_back():
    world = World(*MODULES_AND_BATCHES["encoder_layer_eval"])
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        before = world.state()
        quadratic_along(world.loss)(world.params, world.direction, *world.batch)
        assert_unchanged(before, world.state())
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        torch.backends.cuda.enable_flash_sdp(True)


def test_a_module_can_be_trained_and_copied_after_a_call():
    for name, (make, batch) in MODULES_AND_BATCHES.items():
        world = World(make, batch)
        twin = copy.deepcopy(world.module)
        loss = capture(world.loss) if name in WRONG_UNCAPTURED else world.loss
        quadratic_along(loss)(world.params, world.direction, *world.batch)
        states = []
        for module in (copy.deepcopy(world.module), twin):
            module.zero_grad()
            torch.manual_seed(3)
            squared_error(module(world.batch[0]), world.batch[1]).backward()
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            states.append(flat([grads, list(module.buffers())]))
        assert torch.equal(*states)


def test_the_caller_keeps_the_rng_stream():
    world = World(*MODULES_AND_BATCHES["dropout"])
    torch.manual_seed(5)
    expected = torch.randn(4), torch.randn(4)
    torch.manual_seed(5)
    first = torch.randn(4)
    quadratic_along(world.loss)(world.params, world.direction, *world.batch)
    assert torch.equal(first, expected[0])
    assert torch.equal(torch.randn(4), expected[1])


# The loss is a function


@pytest.mark.parametrize("name", MODULES_AND_BATCHES)
def test_the_same_loss_twice_gives_the_same_numbers(name):
    world = World(*MODULES_AND_BATCHES[name])
    loss = capture(world.loss) if name in WRONG_UNCAPTURED else world.loss
    once, again = (quadratic_along(loss)(world.params, world.direction, *world.batch) for _ in range(2))
    assert torch.equal(flat(once), flat(again))


@pytest.mark.parametrize("name", MODULES_AND_BATCHES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_is_that_of_the_module_under_the_seed(name, seed):
    world = World(*MODULES_AND_BATCHES[name])
    loss, params = functional_loss(world.module, squared_error, seed=seed)
    got = loss(params, *world.batch)
    torch.manual_seed(seed)
    expected = squared_error(world.module(world.batch[0]), world.batch[1]).detach()
    # 1e-6: in eval mode the encoder layer runs fused by itself, which rounds otherwise
    assert_close(got.detach(), expected, 1e-6)


def test_another_seed_is_another_dropout_mask():
    world = World(*MODULES_AND_BATCHES["dropout"])
    values = set()
    for seed in range(4):
        loss, params = functional_loss(world.module, squared_error, seed=seed)
        values.add(float(loss(params, *world.batch)))
    assert len(values) == 4, values


@pytest.mark.parametrize("name", ["frozen", "unused", "dropout", "tied"])
def test_the_mask_and_the_state_are_those_of_one_loss_along_the_line(name):
    # A mask drawn anew at each evaluation, or a buffer that moves, would show as a curvature of another loss.
    case = MODULES[name]()
    got = quadratic_along(case.loss)(case.params, case.direction, *case.args)
    assert_quadratic(got, dense(case.loss, case.params, *case.args), case.direction, 1e-12)


# What the parameters are


def test_params_are_detached_views_of_the_module_in_its_order():
    module = mlp([3, 4, 2])
    _, params = functional_loss(module, MSE)
    assert list(params) == [name for name, _ in module.named_parameters()]
    for name, parameter in module.named_parameters():
        assert not params[name].requires_grad
        assert params[name].data_ptr() == parameter.data_ptr()
    with torch.no_grad():
        module[0].bias.fill_(7.0)
    assert params["0.bias"].tolist() == [7.0] * 4


def test_tied_weights_are_one_parameter():
    torch.manual_seed(0)
    module = Tied().double()
    tokens, targets = torch.randint(7, (2, 5)), torch.randint(7, (2, 5))

    def criterion(logits, targets):
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten())

    def by_hand(params, tokens, targets):
        weight = params["embedding.weight"]
        hidden = torch.tanh(F.embedding(tokens, weight))
        return criterion(F.linear(hidden, weight, params["head.bias"]), targets)

    loss, params = functional_loss(module, criterion)
    assert list(params) == ["embedding.weight", "head.bias"]
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(1))
    got = quadratic_along(loss)(params, d, tokens, targets)
    assert_quadratic(got, dense(by_hand, params, tokens, targets), d, 1e-12)


def test_frozen_parameters_are_no_parameters_and_are_read_anew():
    torch.manual_seed(0)
    module = frozen().double()
    x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    loss, params = functional_loss(module, squared_error)
    assert list(params) == ["2.weight", "2.bias"]
    for scale in (1.0, 2.0):
        with torch.no_grad():
            module[0].weight.mul_(scale)
        assert_close(loss(params, x, y), squared_error(module(x), y).detach(), 1e-15)


def test_buffers_and_mode_are_read_anew():
    torch.manual_seed(0)
    module = normed(lambda: nn.BatchNorm1d(6))().double()
    x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    loss, params = functional_loss(module, squared_error)
    values = [loss(params, x, y)]
    module.eval()
    values.append(loss(params, x, y))
    assert torch.equal(values[-1], squared_error(module(x), y).detach())
    module[1].running_var.mul_(3)
    values.append(loss(params, x, y))
    assert torch.equal(values[-1], squared_error(module(x), y).detach())
    assert len({float(value) for value in values}) == 3


def test_a_parameter_that_the_loss_does_not_use_changes_no_quadratic():
    torch.manual_seed(0)
    module = Unused().double()
    x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    loss, params = functional_loss(module, squared_error)
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(1))
    without, used = functional_loss(module.net, squared_error)
    for strategy in STRATEGIES:
        got = quadratic_along(loss, strategy=strategy)(params, d, x, y)
        alone = {name: d[f"net.{name}"] for name in used}
        assert_quadratic(got, dense(without, used, x, y), alone, 1e-12)
        assert hvp(loss, strategy=strategy)(params, d, x, y)["spare"].tolist() == [0.0] * 3
        assert grad_and_quadratic(loss, strategy=strategy)(params, x, y).grads["spare"].tolist() == [0.0] * 3


# How a module gives its loss


class OwnLoss(nn.Module):
    """A module that computes its loss, given in one of several ways."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = mlp([3, 4, 2]), wrap

    def forward(self, inputs, labels=None, scale=1.0):
        outputs = self.net(inputs)
        return self.wrap(scale * squared_error(outputs, labels), outputs)


OUTPUTS = {
    "scalar": lambda loss, outputs: loss,
    "dict": lambda loss, outputs: {"logits": outputs, "loss": loss},
    "object": lambda loss, outputs: SimpleNamespace(loss=loss, logits=outputs),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_modules_own_loss_is_found_in(name):
    torch.manual_seed(0)
    module = OwnLoss(OUTPUTS[name]).double()
    x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    loss, params = functional_loss(module)
    supervised, net_params = functional_loss(module.net, squared_error)
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(1))
    net_d = {key: d[f"net.{key}"] for key in net_params}
    expected = quadratic_along(supervised)(net_params, net_d, x, y)
    got = quadratic_along(loss)(params, d, inputs=x, labels=y, scale=2.0)
    for number, truth in zip(got, expected, strict=True):
        assert_close(number, 2 * truth, 1e-12)
    assert_close(optimal_alpha(loss)(params, d, x, labels=y), expected.alpha, 1e-12)


def test_a_supervised_loss_takes_its_batch_by_keyword():
    world = World(*MODULES_AND_BATCHES["unused"])
    x, y = world.batch
    by_keyword = optimal_alpha(world.loss)(world.params, world.direction, inputs=x, targets=y)
    assert by_keyword == optimal_alpha(world.loss)(world.params, world.direction, x, y)


def test_a_criterion_may_be_a_module_with_state():
    torch.manual_seed(0)
    module, criterion = mlp([3, 4, 2]).double(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0]).double())
    x, y = torch.randn(8, 3).double(), torch.randint(2, (8,))
    loss, params = functional_loss(module, criterion)
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(1))

    def by_hand(params, x, y):
        picked = functional_call(module, params, (x,)).log_softmax(-1).gather(1, y[:, None])[:, 0]
        weight = torch.tensor([1.0, 5.0], dtype=torch.float64)[y]
        return -(weight * picked).sum() / weight.sum()

    assert list(params) == [name for name, _ in module.named_parameters()]
    assert_quadratic(quadratic_along(loss)(params, d, x, y), dense(by_hand, params, x, y), d, 1e-12)
    assert criterion.weight.tolist() == [1.0, 5.0]


def test_a_step_along_the_direction_leaves_the_module_where_it_was():
    world = World(*MODULES_AND_BATCHES["batch_norm_train"])
    before = world.state()
    step = grad_and_quadratic(world.loss, steepest_descent)(world.params, *world.batch)
    moved = tree.axpy(1e-3, step.direction, world.params)
    assert world.loss(moved, *world.batch) < step.quadratic.value
    assert_unchanged(before, world.state())
