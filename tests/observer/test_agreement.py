"""What the loop's own gradient tells: another loss, batch, mask or mode than was measured, and what is none of that."""

import copy
import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import Observer
from tests.helpers.ranks import start

MSE = nn.MSELoss()


def mlp(*middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), *middle, nn.Linear(8, 3))


def run(
    net, *, criterion=MSE, loss=None, between=lambda net: None, handed=lambda x, y: (x, y), steps=2, told=False, **how
):
    """Records of a loop that trains ``loss`` and says that it trains ``criterion``; ``between`` is before the step."""
    loss = loss or criterion
    optimizer = how.pop("optimizer", lambda p: torch.optim.SGD(p, lr=0.1))(net.parameters())
    records = []
    with Observer(net, criterion, optimizer, log=records.append, **how) as observer:
        for i in range(steps):
            torch.manual_seed(i)
            x, y = torch.randn(8, 4), torch.randn(8, 3)
            optimizer.zero_grad()
            value = loss(net(x), y)
            value.backward()
            observer.batch(*handed(x, y), loss=value if told else None)
            between(net)
            optimizer.step()
    return records


DIFFERENT = {
    "a penalty": {"loss": lambda out, y: F.mse_loss(out, y) + out.square().mean()},
    "label smoothing": {
        "criterion": lambda out, y: F.cross_entropy(out, y.argmax(1)),
        "loss": lambda out, y: F.cross_entropy(out, y.argmax(1), label_smoothing=0.3),
    },
    "another batch": {"handed": lambda x, y: (x, y + 1)},
    "half of the batch": {"handed": lambda x, y: (x[:4], y[:4])},
    "gradients changed by hand": {"between": lambda net: net[0].weight.grad.add_(0.5)},
    "weights changed by hand": {"between": torch.no_grad()(lambda net: net[-1].weight.mul_(0.5))},
    "a gradient reversed": {"between": lambda net: [p.grad.neg_() for p in net.parameters()]},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_loss_is_marked_and_warned_of_once(name, caplog):
    with caplog.at_level(logging.WARNING, "alpha_func"):
        records = run(mlp(), **DIFFERENT[name])
    assert [record.agrees for record in records] == [False, False]
    (message,) = (r.getMessage() for r in caplog.records if r.name == "alpha_func")
    assert message.startswith("step 0: the loss that was measured is not the loss that was trained")
    assert f"the measured slope is {records[0].slope:.6g}" in message
    if name == "weights changed by hand":
        assert "Observed: the parameters changed between the forward and the step" in message


def clip_norm(net):
    nn.utils.clip_grad_norm_(net.parameters(), 0.1)


def clip_by_group(net):
    for part in net:
        if list(part.parameters()):
            nn.utils.clip_grad_norm_(part.parameters(), 0.1)


def clip_values(net):
    nn.utils.clip_grad_value_(net.parameters(), 0.05)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("clip", [clip_norm, clip_by_group, clip_values])
def test_a_gradient_that_was_clipped_is_of_the_loss_that_was_measured(clip, told, caplog):
    with caplog.at_level(logging.INFO, "alpha_func"):
        records = run(mlp(), between=clip, told=told)
    assert all(record.agrees for record in records)
    if clip is clip_norm:
        for record in records:
            assert record.gradient_factor == pytest.approx(record.trained_slope / record.slope, rel=1e-4)
            assert 0 < record.gradient_factor < 1
    (message,) = (r.getMessage() for r in caplog.records if r.name == "alpha_func")
    said = {clip_norm: "multiplied", clip_by_group: "factor of its own", clip_values: "clipped at 0.05"}
    assert said[clip] in message


def test_a_scaled_loss_has_its_factor_and_the_same_alpha():
    (plain, _), (scaled, _) = (run(mlp(), loss=lambda o, y, c=c: c * MSE(o, y)) for c in (1.0, 7.0))
    assert scaled.agrees
    assert scaled.gradient_factor == pytest.approx(7, rel=1e-4)
    assert scaled.alpha_steps == pytest.approx(plain.alpha_steps / 7, rel=1e-4)


def test_the_loss_that_the_loop_tells_stands_beside_the_measured_one():
    records = run(mlp(nn.Dropout(0.5)), told=True)
    for record in records:
        assert record.trained_loss == pytest.approx(record.loss, rel=1e-6)
        assert record.agrees
    records = run(mlp(), told=True, loss=lambda out, y: F.mse_loss(out, y) + out.square().mean())
    assert all(record.trained_loss > 1.01 * record.loss for record in records)


def test_weight_decay_changes_the_step_and_not_the_gradient():
    for decay in ({"weight_decay": 0.3}, {"weight_decay": 0.3, "momentum": 0.9}):
        records = run(mlp(), optimizer=lambda p, decay=decay: torch.optim.SGD(p, lr=0.1, **decay))
        assert [(r.agrees, r.gradient_factor) for r in records] == [(True, 1.0)] * 2


def test_a_mode_that_changes_before_the_step_is_no_other_loss():
    records = run(mlp(nn.BatchNorm1d(8), nn.Dropout(0.4)), between=lambda net: net.eval(), steps=1)
    assert records[0].agrees


def test_the_gain_ratio_is_that_of_the_step_and_can_be_left_out():
    (record,) = run(mlp().double().float(), steps=1)
    promised = -record.slope - record.curvature / 2
    assert record.gain_ratio == pytest.approx((record.loss - record.loss_after) / promised, rel=1e-6)
    assert record.gain_ratio == pytest.approx(1, abs=0.1)
    (record,) = run(mlp(), steps=1, loss_after=False)
    assert math.isnan(record.loss_after)
    assert math.isnan(record.gain_ratio)


def test_two_observers_of_two_optimizers_say_that_the_step_is_a_joint_one(caplog):
    net = mlp()
    optimizers = [torch.optim.SGD(net[0].parameters(), lr=0.5), torch.optim.SGD(net[2].parameters(), lr=0.5)]
    observers = [Observer(net, MSE, optimizer) for optimizer in optimizers]
    x, y = torch.randn(8, 4), torch.randn(8, 3)
    MSE(net(x), y).backward()
    for observer in observers:
        observer.batch(x, y)
    for optimizer in optimizers:
        optimizer.step()
    assert [observer.last.agrees for observer in observers] == [True, False]
    assert "pass Observer every optimizer of the model in one list" in caplog.text


def test_two_observers_of_one_optimizer_measure_alike():
    net = mlp(nn.Dropout(0.5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    observers = [Observer(net, MSE, optimizer), Observer(net, MSE, optimizer, every=2)]
    for _ in range(3):
        x, y = torch.randn(8, 4), torch.randn(8, 3)
        optimizer.zero_grad()
        MSE(net(x), y).backward()
        for observer in observers:
            observer.batch(x, y)
        optimizer.step()
    one, other = (observer.last._replace(more={}, trained_loss=0) for observer in observers)
    assert one == other
    assert one.agrees


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization, as it is written: the gradient is that of another point."""

    def __init__(self, params, base, rho=0.05):
        super().__init__(params, {"rho": rho})
        self.base = base(self.param_groups[0]["params"])

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        params = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        moves = [0.5 * p.grad / norm for p in params]
        for p, move in zip(params, moves, strict=True):
            p.add_(move)
        with torch.enable_grad():
            closure()
        for p, move in zip(params, moves, strict=True):
            p.sub_(move)
        self.base.step()


@pytest.mark.parametrize("of", ["SAM", "its base"])
def test_a_step_of_sam_is_measured_at_its_beginning_or_marked(of):
    net = mlp()
    optimizer = SAM(net.parameters(), lambda p: torch.optim.SGD(p, lr=0.1))
    x, y = torch.randn(8, 4), torch.randn(8, 3)
    observer = Observer(net, MSE, optimizer if of == "SAM" else optimizer.base)

    def closure():
        optimizer.zero_grad()
        loss = MSE(net(x), y)
        loss.backward()
        observer.batch(x, y)
        return loss

    start = copy.deepcopy(net)
    optimizer.step(closure)
    assert observer.last.loss == pytest.approx(MSE(start(x), y).item(), rel=1e-6)
    assert observer.last.agrees is (of == "SAM")  # whose first gradient is of the point that is measured


def test_a_parents_step_within_a_step_is_a_part_of_it():
    class Decayed(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.mul_(0.9)
            return loss

    net = mlp()
    before = [p.detach().clone() for p in net.parameters()]
    (record,) = run(net, steps=1, optimizer=lambda p: Decayed(p, lr=0.1))
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(net.parameters(), before, strict=True)])
    assert record.step_norm == pytest.approx(moved.norm().item(), rel=1e-6)


def test_a_step_that_raises_leaves_nothing_behind():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    observer = Observer(net, MSE, optimizer)
    x, y = torch.randn(8, 4), torch.randn(8, 3)

    def broken():
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        optimizer.step(broken)
    assert observer.last is None
    MSE(net(x), y).backward()
    observer.batch(x, y)
    optimizer.step()
    assert (observer.last.step, observer.last.agrees) == (0, True)


def test_a_step_of_ddp_is_measured_on_the_global_batch():
    two, one = ([found for _, found, _ in start("observed_in_ddp", ranks)] for ranks in (2, 1))
    assert two[0] is not None
    for first, second, alone in zip(*two, *one, strict=True):
        assert first[:7] == second[:7]  # all ranks record the same
        assert first[:5] == pytest.approx(alone[:5], rel=1e-10)
        assert first[5:7] == [True, 2]
        assert first[8] == alone[8] == 1
        assert (first[7] + second[7]) / 2 == pytest.approx(alone[0], rel=1e-12)
        assert first[7] != second[7]
