"""The trust radius in the records of an ``Observer`` that is asked for it."""

import math

import pytest
import torch
from torch import nn

from alpha_func import Observer, functional_loss, tree
from alpha_func.transforms import taylor_along


def loop(**options):
    """A measured step of Adam on two batches; the observer, and the mean of their losses with its point and step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    batches = [(torch.randn(8, 3).double(), torch.randn(8, 2).double()) for _ in range(2)]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    loss, params = functional_loss(net, nn.MSELoss())
    before = tree.map(torch.clone, params)
    with Observer(net, nn.MSELoss(), optimizer, **options) as observer:
        for x, y in batches:
            (nn.MSELoss()(net(x), y) / 2).backward()
            observer.batch(x, y)
        optimizer.step()
    return observer, lambda p: sum(loss(p, *b) for b in batches) / 2, before, tree.sub(params, before)


def test_a_record_has_the_radius_of_the_step_that_was_taken():
    observer, loss, before, step = loop(trust_radius=True)
    expected = taylor_along(loss)(before, step).trust_radius()
    assert math.isclose(observer.last.more["trust_radius"], expected, rel_tol=1e-9)
    assert observer.last.agrees


def test_without_a_program_there_is_none():
    observer, *_ = loop(trust_radius=True, strategy="reverse_over_reverse")
    assert math.isnan(observer.last.more["trust_radius"])
    assert observer.last.agrees


@pytest.mark.parametrize("options", [{}, {"trust_radius": False}])
def test_it_is_not_there_unless_it_was_asked_for(options):
    observer, *_ = loop(**options)
    assert "trust_radius" not in observer.last.more
