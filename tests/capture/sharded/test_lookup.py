"""The program of sharded parameters is guarded as any other: what the loss reads may change, and is seen."""

import pytest
import torch
from torch import nn

from alpha_func import Observer, capture, functional_loss
from tests.helpers.placements import net, sharded

pytestmark = pytest.mark.usefixtures("four_ranks")


@pytest.fixture
def case(four_ranks):
    """The module, and what looks its program up."""
    model, criterion, batch = net(depth=1)
    model.blocks[0].append(nn.Dropout(0.5))
    model.blocks[0].register_buffer("scale", torch.ones(6).double())
    loss, params = functional_loss(sharded(model), criterion)
    lookup = capture(loss)._sharded._lookup
    return model, lambda: lookup(params, batch, {})


def test_a_mode_that_changes_is_another_program(case):
    model, look_up = case
    trained = look_up()[0]
    assert look_up()[0] is trained
    model.eval()
    evaluated = look_up()[0]
    assert evaluated is not trained
    assert evaluated.seed is None
    model.train()
    assert look_up()[0] is trained


def test_a_number_that_changes_is_another_program(case):
    model, look_up = case
    before = look_up()[0]
    model.blocks[0][-1].p = 0.25
    assert look_up()[0] is not before


def test_the_hooks_of_the_engine_and_its_marks_are_where_they_were(case):
    model, look_up = case
    kept = [(dict(m._forward_pre_hooks), dict(m._forward_hooks), vars(m).keys() - {}) for m in model.modules()]
    parameters = list(model.parameters())
    look_up()
    now = [(dict(m._forward_pre_hooks), dict(m._forward_hooks), vars(m).keys() - {}) for m in model.modules()]
    assert now == kept
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_an_observer_of_shards_takes_no_strategy(case):
    model, _ = case
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"strategy='reverse_over_reverse'.*sharded parameters.* leave it out"):
        Observer(model, nn.MSELoss(), optimizer, strategy="reverse_over_reverse")
    with pytest.raises(ValueError, match=r"over_ranks=False.*sharded parameters.* leave it out"):
        Observer(model, nn.MSELoss(), optimizer, over_ranks=False)
