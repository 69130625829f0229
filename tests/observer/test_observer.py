"""``Observer``: the numbers of the steps that a loop takes, and a loop that is the same with it and without."""

import copy
import math
import pickle
import random
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import Observer
from alpha_func.errors import ObserverError
from alpha_func.observer.measuring import TRIED_CAPTURES
from tests.helpers.reference import flat, unflat

MSE = nn.MSELoss()


def mlp(middle=None):
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), middle or nn.Identity(), nn.Linear(6, 2))


NETS = {
    "plain": mlp,
    "batch_norm": lambda: mlp(nn.BatchNorm1d(6)),
    "dropout": lambda: mlp(nn.Dropout(0.4)),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
}


def batches(count, *, size=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        yield (torch.randn(n, generator=generator, dtype=torch.float64).to(dtype) for n in ((size, 3), (size, 2)))


def loop(module, optimizer, observer=None, *, steps=6, dtype=torch.float32, criterion=MSE, before=lambda i: None):
    """A training loop as people write them; what the observer must not change is returned."""
    seen = []
    for i, (x, y) in enumerate(batches(steps, dtype=dtype)):
        before(i)
        optimizer.zero_grad()
        loss = criterion(module(x), y)
        loss.backward()
        if observer is not None:
            observer.batch(x, y)
        optimizer.step()
        seen.append(world(module, optimizer, loss))
    return seen


def world(module, optimizer, loss):
    return {
        "loss": loss.detach().clone(),
        "module": {k: v.clone() for k, v in module.state_dict().items()},
        "grads": [p.grad if p.grad is None else p.grad.clone() for p in module.parameters()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "rng": torch.get_rng_state(),
        "python": random.getstate(),
        "modes": [m.training for m in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "attributes": [sorted(vars(m)) for m in module.modules()],
    }


def assert_identical(one, other):
    """Bit for bit, however nested."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other), f"{one} and {other}"
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_identical(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)
    else:
        assert one == other


def said(caplog):
    """What the library logged; torch logs too."""
    return [record.getMessage() for record in caplog.records if record.name == "alpha_func"]


def made(net="plain", optimizer="sgd", *, dtype=torch.float32):
    torch.manual_seed(0)
    random.seed(0)
    module = NETS[net]().to(dtype)
    return module, OPTIMIZERS[optimizer](module.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_training_is_bit_for_bit_the_same_with_it(net, optimizer):
    without = loop(*made(net, optimizer))
    module, stepped = made(net, optimizer)
    records = []
    with Observer(module, MSE, stepped, every=2, log=records.append) as observer:
        observed = loop(module, stepped, observer)
    assert [r.step for r in records] == [0, 2, 4]
    for one, other in zip(without, observed, strict=True):
        assert_identical(one, other)


def quadratic_by_hand(module, before, after, x, y, criterion=MSE):
    """L, dᵀg and dᵀHd by double backward at the parameters before, and d; the module is a copy."""
    torch.nn.utils.vector_to_parameters(before, module.parameters())
    d = after - before
    params = list(module.parameters())
    loss = criterion(module(x), y)
    grads = torch.autograd.grad(loss, params, create_graph=True)
    slope = sum((g * piece).sum() for g, piece in zip(grads, unflat(d, params), strict=True))
    hd = torch.autograd.grad(slope, params, materialize_grads=True)
    return loss.item(), slope.item(), torch.dot(flat(list(hd)), d).item(), d, flat([g.detach() for g in grads])


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("net", NETS)
def test_a_record_is_the_quadratic_of_the_step_that_was_taken(net, optimizer):
    module, stepped = made(net, optimizer, dtype=torch.float64)
    observer = Observer(module, MSE, stepped)
    schedule = torch.optim.lr_scheduler.ExponentialLR(stepped, 0.7)
    for x, y in batches(4, dtype=torch.float64):
        before, twin, rng = flat(list(module.parameters())).detach(), copy.deepcopy(module), torch.get_rng_state()
        stepped.zero_grad()
        MSE(module(x), y).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.3)
        observer.batch(x, y)
        lr = stepped.param_groups[0]["lr"]
        stepped.step()
        schedule.step()
        after = flat(list(module.parameters())).detach()
        with torch.random.fork_rng():
            torch.set_rng_state(rng)  # the very dropout masks of the training step
            loss, slope, curvature, d, g = quadratic_by_hand(twin, before, after, x, y)
        record = observer.last
        assert record.loss == pytest.approx(loss, rel=1e-12)
        assert record.slope == pytest.approx(slope, rel=1e-10)
        assert record.curvature == pytest.approx(curvature, rel=1e-9)
        assert record.alpha_steps == pytest.approx(-slope / curvature, rel=1e-9)
        assert record.lr == lr
        assert record.alpha_lr == pytest.approx(record.alpha_steps * lr, rel=1e-12)
        assert record.cosine == pytest.approx((-(d @ g) / (d.norm() * g.norm())).item(), rel=1e-9)
        assert record.step_norm == pytest.approx(d.norm().item(), rel=1e-12)


def test_the_share_of_weight_decay_is_that_of_the_closed_form():
    """d = −lr (g + λθ) of plain SGD: the share is λ θᵀg / (g + λθ)ᵀg."""
    torch.manual_seed(0)
    module = mlp().double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.3)
    observer = Observer(module, MSE, optimizer)
    ((x, y),) = batches(1, dtype=torch.float64)
    MSE(module(x), y).backward()
    observer.batch(x, y)
    theta, g = flat(list(module.parameters())).detach(), flat([p.grad for p in module.parameters()])
    optimizer.step()
    assert observer.last.weight_decay_share == pytest.approx((0.3 * theta @ g / ((g + 0.3 * theta) @ g)).item(), 1e-10)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.NAdam])
def test_the_share_of_weight_decay_is_that_of_two_steps_from_one_state(kind):
    torch.manual_seed(0)
    module = mlp().double()
    groups = [{"params": module[0].parameters(), "weight_decay": 0.3}, {"params": module[3].parameters(), "lr": 0.02}]
    optimizer = kind(groups, lr=0.01, **({} if kind is torch.optim.AdamW else {"decoupled_weight_decay": True}))
    observer = Observer(module, MSE, optimizer)
    for x, y in batches(3, dtype=torch.float64):
        fresh_gradient(module, optimizer, x, y)
        twin, grads = copy.deepcopy(module), [p.grad for p in module.parameters()]
        undecayed = kind(
            [{"params": twin[0].parameters()}, {"params": twin[3].parameters(), "lr": 0.02}], lr=0.01, weight_decay=0
        )
        for p, q in zip(twin.parameters(), module.parameters(), strict=True):  # as they are: loading would cast them
            undecayed.state[p] = copy.deepcopy(optimizer.state[q])
        before = flat(list(module.parameters())).detach()
        for p, g in zip(twin.parameters(), grads, strict=True):
            p.grad = g
        undecayed.step()
        observer.batch(x, y)
        optimizer.step()
        d, d0 = (flat(list(m.parameters())).detach() - before for m in (module, twin))
        share = ((d - d0) @ flat(grads) / (d @ flat(grads))).item()
        assert observer.last.weight_decay_share == pytest.approx(share, rel=1e-9)


def test_accumulated_batches_are_one_batch():
    module, optimizer = made(dtype=torch.float64)
    observer = Observer(module, MSE, optimizer)
    pieces = [tuple(b) for b in batches(3, dtype=torch.float64)]
    before = flat(list(module.parameters())).detach()
    twin = copy.deepcopy(module)
    for x, y in pieces:
        (MSE(module(x), y) / 3).backward()
        observer.batch(x, y)
    optimizer.step()
    x, y = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    after = flat(list(module.parameters())).detach()
    loss, slope, curvature, *_ = quadratic_by_hand(twin, before, after, x, y)
    assert observer.last.loss == pytest.approx(loss, rel=1e-12)
    assert observer.last.slope == pytest.approx(slope, rel=1e-10)
    assert observer.last.curvature == pytest.approx(curvature, rel=1e-9)


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_grad_scaler_the_curvature_is_in_float32(fused):
    torch.manual_seed(0)
    module = mlp()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    records = []
    observer = Observer(module, MSE, optimizer, log=records.append)
    for i, (x, y) in enumerate(batches(4)):
        before, twin = flat(list(module.parameters())).detach(), copy.deepcopy(module)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = MSE(module(x), y)
        scaler.scale(loss).backward()
        if i == 1:
            module[0].weight.grad.fill_(math.inf)
        observer.batch(x, y)
        scaler.step(optimizer)
        scaler.update()
        after = flat(list(module.parameters())).detach()
        if i != 1:
            value, slope, curvature, d, _ = quadratic_by_hand(twin, before, after, x, y)
            assert records[-1].loss == pytest.approx(value, rel=1e-5)
            assert records[-1].curvature == pytest.approx(curvature, rel=1e-3)  # the difference is d's own, in float32
            assert records[-1].slope == pytest.approx(slope, rel=1e-4)
            decay = -0.01 * 0.1 * before  # AdamW's: decoupled
            g = flat([p.grad for p in module.parameters()])  # unscaled by now
            assert records[-1].cosine == pytest.approx((-(d @ g) / (d.norm() * g.norm())).item(), rel=1e-5)
            assert records[-1].weight_decay_share == pytest.approx((decay @ g / (d @ g)).item(), rel=1e-3)
    assert [r.step for r in records] == ([0, 2, 3] if fused else [0, 1, 2])  # a fused step is called, and is none
    assert all(r.agrees for r in records)


def test_parameters_may_be_frozen_and_thawed_along_the_way():
    module, optimizer = made(dtype=torch.float64)
    observer = Observer(module, MSE, optimizer)
    captured = []

    def switch(i):
        module[0].requires_grad_(i % 2 == 0)
        for p in module[0].parameters():
            p.grad = None

    for i, (x, y) in enumerate(batches(4, dtype=torch.float64)):
        switch(i)
        before, twin = flat(list(module.parameters())).detach(), copy.deepcopy(module).requires_grad_(True)
        optimizer.zero_grad()
        MSE(module(x), y).backward()
        observer.batch(x, y)
        optimizer.step()
        after = flat(list(module.parameters())).detach()
        _, slope, curvature, d, _ = quadratic_by_hand(twin, before, after, x, y)
        captured.append(int(d.count_nonzero()))
        assert observer.last.slope == pytest.approx(slope, rel=1e-10)
        assert observer.last.curvature == pytest.approx(curvature, rel=1e-9)
    assert captured[0] > captured[1] == 14


def fresh_gradient(module, optimizer, x, y):
    optimizer.zero_grad()
    loss = MSE(module(x), y)
    loss.backward()
    return loss


def test_a_step_of_lbfgs_with_its_closure_is_measured():
    module, _ = made(dtype=torch.float64)
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=3)
    observer = Observer(module, MSE, optimizer)
    ((x, y),) = batches(1, dtype=torch.float64)
    before, twin = flat(list(module.parameters())).detach(), copy.deepcopy(module)

    observer.batch(x, y)
    optimizer.step(partial(fresh_gradient, module, optimizer, x, y))
    after = flat(list(module.parameters())).detach()
    _, slope, curvature, *_ = quadratic_by_hand(twin, before, after, x, y)
    assert observer.last.alpha_steps == pytest.approx(-slope / curvature, rel=1e-9)
    assert observer.last.trained_slope == pytest.approx(slope, rel=1e-10)
    assert observer.last.agrees
    assert math.isnan(observer.last.alpha_lr)
    assert observer.last.weight_decay_share == 0


def test_a_gradient_made_by_a_closure_is_as_good_as_one_made_before():
    records = []
    for closed in (False, True):
        module, optimizer = made(optimizer="adamw")
        with Observer(module, MSE, optimizer, log=records.append) as observer:
            for x, y in batches(3):
                gradient = partial(fresh_gradient, module, optimizer, x, y)
                observer.batch(x, y)
                if not closed:
                    gradient()
                optimizer.step(gradient if closed else None)
    for one, other in zip(records[:3], records[3:], strict=True):
        assert one._replace(more={}) == other._replace(more={}, trained_loss=one.trained_loss)


def test_bfloat16_modules_are_measured_in_float32():
    torch.manual_seed(0)
    module = mlp(nn.BatchNorm1d(6)).bfloat16()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    observer = Observer(module, MSE, optimizer)
    for x, y in batches(3, dtype=torch.bfloat16):
        before, twin = flat(list(module.parameters())).detach().float(), copy.deepcopy(module).float()
        optimizer.zero_grad()
        MSE(module(x), y).backward()
        observer.batch(x, y)
        optimizer.step()
        after = flat(list(module.parameters())).detach().float()
        loss, slope, curvature, *_ = quadratic_by_hand(twin, before, after, x.float(), y.float())
        assert observer.last.loss == pytest.approx(loss, rel=1e-5)
        assert observer.last.slope == pytest.approx(slope, rel=1e-5)
        assert observer.last.curvature == pytest.approx(curvature, rel=1e-5)


def test_a_schedule_another_batch_and_a_later_start_are_taken():
    module, optimizer = made()
    x, y = next(batches(1, size=20))
    records, asked = [], []

    def other(step):
        asked.append(step)
        return x, y

    every = lambda step: step in (101, 104)  # noqa: E731
    observer = Observer(module, MSE, optimizer, every=every, measure_on=other, start=100, log=records.append)
    twin = copy.deepcopy(module)
    seen = loop(module, optimizer, observer)
    assert [r.step for r in records] == asked == [101, 104]
    twin.load_state_dict(seen[0]["module"])
    assert records[0].loss == pytest.approx(MSE(twin(x), y).item(), rel=1e-6)


def test_a_loss_that_the_module_computes_takes_its_arguments():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x, *, labels):
            return {"loss": F.mse_loss(self.net(x), labels)}

    torch.manual_seed(0)
    module = Own()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    observer = Observer(module, None, optimizer)
    x, y = next(batches(1))
    loss = module(x, labels=y)["loss"]
    loss.backward()
    observer.batch(x, labels=y)
    optimizer.step()
    assert observer.last.loss == pytest.approx(loss.item(), rel=1e-6)


class CountsItsSteps(torch.optim.Optimizer):
    """An optimizer of the user's own, which remembers something outside its state: it cannot be run on copies."""

    def __init__(self, params, weight_decay):
        super().__init__(params, {"weight_decay": weight_decay})
        self.count = 0

    @torch.no_grad()
    def step(self):
        self.count += 1
        for p in self.param_groups[0]["params"]:
            p.sub_(0.1 / self.count * (p.grad + self.param_groups[0]["weight_decay"] * p))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_an_own_optimizer_is_measured_and_what_is_not_known_is_nan(weight_decay):
    torch.manual_seed(0)
    module = mlp().double()
    optimizer = CountsItsSteps(module.parameters(), weight_decay)
    observer = Observer(module, MSE, optimizer)
    for x, y in batches(2, dtype=torch.float64):
        before, twin = flat(list(module.parameters())).detach(), copy.deepcopy(module)
        fresh_gradient(module, optimizer, x, y)
        observer.batch(x, y)
        optimizer.step()
        _, slope, curvature, *_ = quadratic_by_hand(twin, before, flat(list(module.parameters())).detach(), x, y)
        assert observer.last.alpha_steps == pytest.approx(-slope / curvature, rel=1e-9)
        assert math.isnan(observer.last.alpha_lr)
        assert math.isnan(observer.last.lr)
        assert observer.last.cosine > 0.9
        if weight_decay:
            assert math.isnan(observer.last.weight_decay_share)
        else:
            assert observer.last.weight_decay_share == 0
    assert optimizer.count == 2


def test_batches_of_another_shape_are_measured_too():
    module, optimizer = made()
    observer = Observer(module, MSE, optimizer)
    for size in (8, 8, 3):
        x, y = next(batches(1, size=size))
        optimizer.zero_grad()
        loss = MSE(module(x), y)
        loss.backward()
        observer.batch(x, y)
        optimizer.step()
        assert observer.last.loss == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("first", ["batch", "forward"])
def test_dropout_masks_are_the_steps_whether_batch_or_forward_is_first(first):
    module, optimizer = made("dropout")
    observer = Observer(module, MSE, optimizer)
    for x, y in batches(2):
        optimizer.zero_grad()
        torch.rand(3)  # somebody else draws
        if first == "batch":
            observer.batch(x, y)
        torch.rand(3)
        loss = MSE(module(x), y)
        loss.backward()
        torch.rand(3)
        if first == "forward":
            observer.batch(x, y)
        optimizer.step()
        assert observer.last.loss == pytest.approx(loss.item(), rel=1e-6)


class BranchesOnValues(nn.Module):
    """A forward that no program can hold."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        y = self.net(x)
        return 2 * y if y.sum() > 0 else 3 * y


def test_double_backward_measures_what_cannot_be_captured_and_logs_why(caplog):
    torch.manual_seed(0)
    module = BranchesOnValues().double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    observer = Observer(module, MSE, optimizer)
    for x, y in batches(3, dtype=torch.float64):
        before, twin = flat(list(module.parameters())).detach(), copy.deepcopy(module)
        fresh_gradient(module, optimizer, x, y)
        observer.batch(x, y)
        optimizer.step()
        after = flat(list(module.parameters())).detach()
        _, slope, curvature, *_ = quadratic_by_hand(twin, before, after, x, y)
        assert observer.last.curvature == pytest.approx(curvature, rel=1e-9)
        assert observer.last.alpha_steps == pytest.approx(-slope / curvature, rel=1e-9)
    (message,) = said(caplog)
    assert "by double backward, without a captured program" in message
    assert "y.sum() > 0" in message


def test_a_loss_that_is_captured_anew_at_every_step_stops_being_captured(caplog):
    module, optimizer = made()
    observer = Observer(module, MSE, optimizer)
    for size in range(2, 2 + TRIED_CAPTURES + 3):
        x, y = next(batches(1, size=size))
        loss = fresh_gradient(module, optimizer, x, y)
        observer.batch(x, y)
        optimizer.step()
        assert observer.last.loss == pytest.approx(loss.item(), rel=1e-6)
    (message,) = said(caplog)
    assert f"{TRIED_CAPTURES} programs were captured in {TRIED_CAPTURES} measurements" in message


def test_a_loss_that_is_not_finite_is_recorded_and_training_goes_on():
    module, optimizer = made()
    records = []
    observer = Observer(module, MSE, optimizer, log=records.append)

    def break_it(i):
        if i == 2:
            module[0].weight.data.fill_(math.nan)

    loop(module, optimizer, observer, steps=4, before=break_it)
    assert [math.isnan(r.loss) for r in records] == [False, False, True, True]
    assert math.isnan(records[2].alpha_steps)


def test_a_logger_that_fails_is_reported_once_and_the_others_are_served(caplog):
    module, optimizer = made()
    records = []

    def broken(record):
        raise OSError("disk full")

    observer = Observer(module, MSE, optimizer, log=[broken, records.append])
    without = loop(*made())
    assert_identical(without, loop(module, optimizer, observer))
    assert len(records) == 6
    (message,) = said(caplog)
    assert "broken failed, and training continues: OSError: disk full" in message


def test_an_error_at_the_first_step_is_raised_and_a_later_one_logged_once(caplog):
    module, optimizer = made()
    observer = Observer(module, MSE, optimizer)
    with pytest.raises(ObserverError, match=r"no batch to be measured on: call observer.batch\(inputs, targets\)"):
        loop(module, optimizer)
    module, optimizer = made()
    observer = Observer(module, lambda outputs, targets: (outputs - targets).square(), optimizer)
    with pytest.raises(ObserverError, match="loss must return a scalar"):
        loop(module, optimizer, observer)
    module, optimizer = made()
    observer = Observer(module, MSE, optimizer, every=lambda step: step > 1)
    assert_identical(loop(*made()), loop(module, optimizer))  # nobody calls batch
    assert observer.last is None
    (message,) = said(caplog)
    assert message.startswith("step 2 was not measured, and training continues: ObserverError: the step has no batch")


def test_a_closed_observer_has_left_nothing():
    module, optimizer = made()
    hooks = len(module._forward_pre_hooks), len(optimizer._optimizer_step_pre_hooks)
    with Observer(module, MSE, optimizer) as observer:
        pass
    assert (len(module._forward_pre_hooks), len(optimizer._optimizer_step_pre_hooks)) == hooks
    loop(module, optimizer)
    assert observer.last is None


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_pickled_or_copied_and_says_what_to_do_instead(way):
    module, optimizer = made()
    with Observer(module, MSE, optimizer) as observer, pytest.raises(TypeError, match="make another Observer"):
        way(observer)


def test_what_does_not_fit_is_refused_at_construction():
    module, optimizer = made()
    other = torch.optim.SGD(mlp().parameters(), lr=0.1)
    both = torch.optim.SGD([*module.parameters(), nn.Parameter(torch.ones(2))], lr=0.1)
    frozen = mlp().requires_grad_(False)
    refused = [
        (TypeError, "module must be a torch.nn.Module, got Tensor", (torch.ones(2), MSE, optimizer), {}),
        (TypeError, "optimizer must be a torch.optim.Optimizer", (module, MSE, torch.optim.SGD), {}),
        (ValueError, r"4 of the 4 parameters of optimizer .* are not parameters of module", (module, MSE, other), {}),
        (ValueError, r"1 of the 5 parameters of optimizer \(of shapes \(2,\)\)", (module, MSE, both), {}),
        (ValueError, "unfreeze at least one", (frozen, MSE, torch.optim.SGD(frozen.parameters(), lr=0.1)), {}),
        (TypeError, "missing a required argument: 'target'", (module, nn.MarginRankingLoss(), optimizer), {}),
        (TypeError, r"criterion must be callable .* got <class", (module, nn.MSELoss, optimizer), {}),
        (ValueError, "every must be a positive number of steps", (module, MSE, optimizer), {"every": 0}),
        (TypeError, r"log\[1\] must be callable", (module, MSE, optimizer), {"log": [print, 3]}),
        (TypeError, "measure_on must be a tuple", (module, MSE, optimizer), {"measure_on": torch.ones(2)}),
        (ValueError, "strategy 'taylor' is unknown", (module, MSE, optimizer), {"strategy": "taylor"}),
        (ValueError, "backend 'jit' is unknown", (module, MSE, optimizer), {"backend": "jit"}),
        (TypeError, "log must be callable", (module, MSE, optimizer), {"log": 5}),
        (TypeError, "trust_radius must be True or False, got 3", (module, MSE, optimizer), {"trust_radius": 3}),
        (TypeError, "loss_after must be True or False, got 'no'", (module, MSE, optimizer), {"loss_after": "no"}),
        (TypeError, "over_ranks must be True, False or None", (module, MSE, optimizer), {"over_ranks": "all"}),
        (ValueError, "start must be the number of the first step", (module, MSE, optimizer), {"start": "1"}),
    ]
    for kind, message, arguments, options in refused:
        with pytest.raises(kind, match=message):
            Observer(*arguments, **options)
    with pytest.raises(TypeError, match=r"batch takes \(inputs, targets\).* got 1 arguments"):
        Observer(module, MSE, optimizer).batch(torch.ones(8, 3))
    assert not optimizer._optimizer_step_pre_hooks or len(optimizer._optimizer_step_pre_hooks) == 1
