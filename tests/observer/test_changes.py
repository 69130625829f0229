"""A loss that changes between two steps of a loop is measured as it is at the step, or has no record."""

import pytest
import torch

from alpha_func import Observer
from alpha_func.losses.draws import draws_replayed, rng_state
from tests.capture.tracing.changes import CHANGES
from tests.helpers.reference import assert_close, double_backward
from tests.helpers.whole import a_few_of

NAMES = [name for name in CHANGES if not name.endswith("in a function")]
FEW = [
    "closure in a criterion",
    "tensor rebound in a forward",
    "global in a loss_of",
    "module: p of dropout",
    "module: buffer in place",
    "module: frozen bias",
]


@pytest.mark.parametrize("name", a_few_of(NAMES, FEW))
def test_a_change_between_two_steps_is_seen_or_has_no_record(name):
    loss, _, batch, change = CHANGES[name]()
    module, criterion = loss.model.module, getattr(loss.model, "criterion", None)
    loss_of = getattr(loss.model, "loss_of", None)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Observer(module, criterion, optimizer, loss_of=loss_of) as observer:
        for step in range(2):
            if step:
                change()
            optimizer.zero_grad()
            began = rng_state()
            value = loss_of(module, *batch) if criterion is None else criterion(module(batch[0]), batch[1])
            value.backward()
            observer.batch(*batch)
            before = {name: p.detach().clone() for name, p in module.named_parameters()}
            optimizer.step()
    record = observer.last
    if record.step == 0:
        return
    d = {name: p.detach() - before[name] for name, p in module.named_parameters()}
    with draws_replayed(began):
        expected, scale = double_backward(loss.over(before), before, d, *batch)
    for number, true in zip((record.loss, record.slope, record.curvature), expected, strict=True):
        assert_close(torch.tensor(number, dtype=torch.float64), true, 1e-9, 1 + scale)
    assert record.agrees
