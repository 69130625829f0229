"""Losses and directions survive pickle, copy.deepcopy and torch.save, before and after calls."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from alpha_func import capture, from_optimizer, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.data_sets import microbatched
from tests.helpers.reference import flat


def saved(value):
    """Through torch.save."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"pickle": lambda v: pickle.loads(pickle.dumps(v)), "deepcopy": copy.deepcopy, "torch.save": saved}
LOSSES = {"plain": lambda f: f, "captured": capture, "microbatched": lambda f: microbatched(f, 4)}
every_copy = pytest.mark.parametrize("through", COPIES.values(), ids=COPIES)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)).double()


def numbers(loss, params):
    x, y = (torch.randn(8, width, generator=torch.Generator().manual_seed(1)).double() for width in (3, 2))
    return flat(tuple(quadratic_along(loss)(params, tree.map(torch.ones_like, params), x, y)))


@pytest.mark.parametrize("called", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", LOSSES)
@every_copy
def test_a_copied_loss_is_the_loss_of_a_copied_module(through, kind, called):
    module = net()
    loss, params = functional_loss(module.eval() if kind == "microbatched" else module, nn.MSELoss(), seed=3)
    loss = LOSSES[kind](loss)
    expected = numbers(loss, params)
    twin = through(loss if called else LOSSES[kind](functional_loss(module, nn.MSELoss(), seed=3)[0]))
    assert type(twin) is type(loss)
    assert torch.equal(numbers(twin, params), expected)
    with torch.no_grad():
        module[0].weight.zero_()
    copied = twin.model if kind == "plain" else twin.loss.model
    assert copied.module[0].weight.abs().sum() > 0
    copied.module[2].p = 0.0  # and it is read anew, as any loss
    copied.train()
    if kind == "plain":
        assert not torch.equal(numbers(twin, params), expected)


@every_copy
def test_a_copied_captured_loss_keeps_its_options(through):
    captured = capture(functional_loss(net(), nn.MSELoss())[0], backend="inductor", strict=True, unverified=True)
    made_by, _ = through(captured).__reduce__()
    assert made_by.keywords == captured.__reduce__()[0].keywords
    assert {"backend": "inductor", "strict": True, "unverified": True}.items() <= made_by.keywords.items()


OPTIMIZERS = {
    "Adam": lambda: from_optimizer(torch.optim.Adam, lr=0.1),
    "SGD in groups": lambda: from_optimizer(torch.optim.SGD, lr=0.1, momentum=0.9, groups={"*bias": {"lr": 0.2}}),
}


@pytest.mark.parametrize("called", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@every_copy
def test_a_copied_direction_is_the_same_step(through, name, called):
    params = {"w": torch.ones(3), "bias": torch.ones(2)}
    grads = tree.map(lambda p: 2 * p, params)
    direction = OPTIMIZERS[name]()
    state = direction.init(params)
    expected, state = direction.update(grads, state, params)
    twin, state = through((direction if called else OPTIMIZERS[name](), state))
    assert torch.equal(flat(twin.update(grads, twin.init(params), params)[0]), flat(expected))
    assert torch.equal(flat(twin.update(grads, state, params)[0]), flat(direction.update(grads, state, params)[0]))


@every_copy
def test_a_copied_quadratic_and_step(through):
    loss, params = functional_loss(net(), nn.MSELoss())
    step = grad_and_quadratic(loss)(params, torch.ones(4, 3).double(), torch.ones(4, 2).double())
    twin = through(step)
    assert torch.equal(flat(twin), flat(step))
    assert twin.quadratic.alpha == step.quadratic.alpha
