"""Garbage is not collected while a loss is recorded: what goes with it may be under a guard."""

import gc
import weakref

import torch
from torch import nn

from alpha_func import Observer, capture, functional_loss, quadratic_along
from alpha_func.capture.tracing import recording
from tests.helpers.cases import mlp


def abandoned_observer():
    """One whose hook of every module's forward stands, in a cycle that only a collection ends."""
    module = mlp([3, 2])
    observer = Observer(module, nn.MSELoss(), torch.optim.SGD(module.parameters(), lr=0.1))
    cycle = [observer]
    cycle.append(cycle)


def test_an_observer_that_is_garbage_stays_while_a_loss_is_recorded(monkeypatch):
    resting = []

    class Watched(recording.Recording):
        def __init__(self, graph):
            resting.append(not gc.isenabled())
            super().__init__(graph)

    monkeypatch.setattr(recording, "Recording", Watched)
    loss, params = functional_loss(mlp([3, 2]), nn.MSELoss())
    abandoned_observer()
    quadratic_along(capture(loss))(params, params, torch.randn(4, 3), torch.randn(4, 2))
    assert set(resting) == {True}
    assert gc.isenabled()


def test_the_global_hook_of_a_collected_observer_goes_at_the_next_call():
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    abandoned_observer()
    standing = len(hooks)
    gc.collect()
    nn.Identity()(None)
    assert len(hooks) < standing


def test_a_loss_that_is_let_go_takes_its_graphs_along(monkeypatch):
    graphs = []

    class Watched(recording.Recording):
        def __init__(self, graph):
            graphs.append(weakref.ref(graph))
            super().__init__(graph)

    monkeypatch.setattr(recording, "Recording", Watched)
    captured = capture(lambda x: x.square().sum())
    for x in (torch.ones(2), torch.ones(3)):
        captured(x)
    assert all(graph() is not None for graph in graphs)
    del captured
    gc.collect()
    assert [graph() for graph in graphs] == [None, None]
