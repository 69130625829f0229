"""AlphaLR: the learning rate of a loop by a step rule, against the pure rule on the records of the loop."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from alpha_func import Observer, Quadratic
from alpha_func.observer import AlphaLR
from alpha_func.step_rules import StepRule, armijo, cdat, damped, greedy, polyak, trusted
from tests.helpers.cases import mlp

RULES = {
    "greedy": greedy,
    "damped": lambda: damped(0.5, beta=0.9),
    "cdat": lambda: cdat(1.5, beta=0.9),
    "polyak": lambda: polyak(largest=0.5),
    "armijo": lambda: armijo(first=0.5),
    "trusted": lambda: trusted(greedy(), radius=0.05),
}


class Loop:
    """A loop on batches of its own: a small net, one optimizer of two groups, an observer and the scheduler."""

    def __init__(self, rule, kind=torch.optim.SGD, lrs=(0.05, 0.01), criterion=None, **options):
        torch.manual_seed(0)
        self.module, self.criterion = mlp([4, 6, 1]).double(), nn.MSELoss()
        groups = [{"params": self.module[0].parameters(), "lr": lrs[0]}]
        groups += [{"params": self.module[2].parameters(), "lr": lrs[1]}]
        self.optimizer, self.records = kind(groups), []
        self.observer = Observer(
            self.module, criterion or self.criterion, self.optimizer, log=self.records.append,
            strategy="reverse_over_reverse", **options,
        )  # fmt: skip
        self.scheduler, self.rates = AlphaLR(self.optimizer, self.observer, rule), []
        g = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(64, 8, 4, generator=g, dtype=torch.float64)
        self.targets = torch.randn(64, 8, 1, generator=g, dtype=torch.float64)

    def run(self, first, last):
        for step in range(first, last):
            x, y = self.inputs[step], self.targets[step]
            self.optimizer.zero_grad()
            self.criterion(self.module(x), y).backward()
            self.observer.batch(x, y)
            self.optimizer.step()
            self.scheduler.step()
            self.rates.append(self.scheduler.get_last_lr())
        return self


def by_hand(rule, records, lrs):
    """The rates after each record, by the pure rule."""
    state, rates, found = rule.init(), list(lrs), []
    for record in records:
        numbers = record.loss, record.slope / record.lr, record.curvature / record.lr**2
        quadratic = Quadratic(*torch.tensor(numbers, dtype=torch.float64))
        alpha, state = rule.update(quadratic, state, record.gain_ratio)
        rates = [float(alpha) * lr / lrs[0] for lr in lrs] if alpha > 0 else rates
        found.append(rates)
    return found


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("name", RULES)
def test_the_rates_are_the_rule_s_and_groups_keep_their_ratio(name, kind):
    loop = Loop(RULES[name](), kind).run(0, 12)
    assert len(loop.records) == 12
    assert loop.rates == [
        pytest.approx(rates, rel=1e-12) for rates in by_hand(RULES[name](), loop.records, (0.05, 0.01))
    ]
    assert [group["lr"] for group in loop.optimizer.param_groups] == loop.rates[-1]
    assert [record.lr for record in loop.records[1:]] == [rates[0] for rates in loop.rates[:-1]]


def test_greedy_on_a_parabola_knows_its_rate_after_one_step():
    module = nn.Linear(1, 1, bias=False).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    observer = Observer(module, nn.MSELoss(), optimizer, strategy="reverse_over_reverse")
    scheduler = AlphaLR(optimizer, observer, greedy())
    x, y = torch.full((4, 1), 3.0).double(), torch.ones(4, 1).double()
    for _ in range(2):
        optimizer.zero_grad()
        nn.MSELoss()(module(x), y).backward()
        observer.batch(x, y)
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / 18, rel=1e-10)
    assert float(module.weight.detach()) == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_a_loop_that_goes_on_from_its_state_is_the_loop_in_one_go(name):
    whole = Loop(RULES[name]()).run(0, 12)
    first = Loop(RULES[name]()).run(0, 5)
    file = io.BytesIO()
    torch.save([first.module.state_dict(), first.optimizer.state_dict(), first.scheduler.state_dict()], file)
    file.seek(0)
    second = Loop(RULES[name](), start=5)
    for part, state in zip((second.module, second.optimizer, second.scheduler), torch.load(file), strict=True):
        part.load_state_dict(state)
    second.run(5, 12)
    assert first.rates + second.rates == whole.rates
    assert all(map(torch.equal, second.module.parameters(), whole.module.parameters()))


def test_between_measured_steps_the_rate_stays():
    loop = Loop(greedy(), every=4).run(0, 10)
    first = [rates[0] for rates in loop.rates]
    assert len(set(first[0:4])) == len(set(first[4:8])) == len(set(first[8:10])) == 1
    assert len(set(first)) == 3


def test_the_rate_does_not_follow_a_loss_that_is_not_the_one_trained():
    loop = Loop(greedy(), criterion=nn.L1Loss()).run(0, 3)
    assert [record.agrees for record in loop.records] == [False] * 3
    assert loop.rates == [[0.05, 0.01]] * 3


def test_where_the_rule_gives_no_positive_rate_the_rate_stays():
    backwards = StepRule(greedy().init, lambda quadratic, state, gain_ratio=math.nan: (-quadratic.alpha.abs(), state))
    assert Loop(backwards).run(0, 3).rates == [[0.05, 0.01]] * 3


def test_a_rate_that_is_a_tensor_is_written_in_place():
    loop = Loop(greedy(), lambda groups: torch.optim.Adam(groups, lr=torch.tensor(0.05), capturable=False))
    rate = loop.optimizer.param_groups[0]["lr"] = torch.tensor(0.05)
    loop.run(0, 2)
    assert loop.optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(float(loop.rates[-1][0]))


def test_it_is_a_scheduler_of_torch():
    loop = Loop(greedy())
    assert isinstance(loop.scheduler, LRScheduler)
    assert loop.scheduler.get_last_lr() == [0.05, 0.01]


def parts():
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return module, optimizer, Observer(module, nn.MSELoss(), optimizer)


def other_optimizer():
    module, _, observer = parts()
    return torch.optim.SGD(module.parameters(), lr=0.1), observer, greedy()


def observed(kind, **options):
    module = nn.Linear(2, 1)
    optimizer = kind(module.parameters(), **options)
    return optimizer, Observer(module, nn.MSELoss(), optimizer), greedy()


def of_two():
    module = nn.Linear(2, 1)
    both = [torch.optim.SGD([param], lr=0.1) for param in module.parameters()]
    return both, Observer(module, nn.MSELoss(), both), greedy()


BAD = {
    "no observer": (lambda: (parts()[1], None, greedy()), TypeError, "observer must be an Observer of the optimizer"),
    "no rule": (lambda: (*parts()[1:], 0.5), TypeError, r"rule must be a StepRule such as .*cdat\(2.0\), got float"),
    "other optimizer": (other_optimizer, ValueError, "observer watches different optimizers"),
    "Rprop": (lambda: observed(torch.optim.Rprop, lr=0.1), ValueError, "Rprop is not known to be proportional"),
    "several optimizers": (of_two, TypeError, "optimizer must be one optimizer, got 2 of them, whose steps have one α"),
    "one of several": (lambda: (of_two()[0][0], *of_two()[1:]), ValueError, "observer watches different optimizers"),
    "rate 0": (lambda: observed(torch.optim.SGD, lr=0.0), ValueError, "the lr of the first parameter group is 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_scheduled_is_refused(name):
    make, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        AlphaLR(*make())


def test_the_state_of_another_rule_or_of_other_groups_is_refused():
    state = Loop(cdat()).scheduler.state_dict()
    with pytest.raises(ValueError, match="it has 3 numbers and this rule keeps 1"):
        Loop(armijo()).scheduler.load_state_dict(state)
    with pytest.raises(ValueError, match="state_dict has 1 groups, the optimizer 2"):
        Loop(cdat()).scheduler.load_state_dict({**state, "base_lrs": [0.1]})


@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy, copy.copy])
def test_it_is_not_pickled_or_copied_and_says_what_is_to_be_saved(way):
    with pytest.raises(TypeError, match=r"AlphaLR cannot be pickled or copied.*save state_dict\(\)"):
        way(Loop(greedy()).scheduler)


@pytest.mark.parametrize("given", [None, {}, {"rule": []}])
def test_a_state_dict_of_something_else_is_refused(given):
    with pytest.raises(ValueError, match="state_dict lacks base_lrs"):
        Loop(greedy()).scheduler.load_state_dict(given)
