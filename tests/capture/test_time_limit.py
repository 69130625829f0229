"""A capture that takes longer than it may is given up, wherever it is, and may be had later."""

import logging

import pytest
import torch
from torch import nn

from alpha_func import Observer, capture, quadratic_along
from alpha_func.capture import time_limit
from alpha_func.capture.time_limit import within
from alpha_func.errors import CaptureError
from tests.helpers.reference import assert_close, double_backward


def recurrence(w, x):
    for _ in range(5):
        x = torch.tanh(x @ w)
    return x.square().sum()


@pytest.mark.parametrize("looks", [40, 95, 200])  # in recording, in lowering, in the writing of a sweep
def test_a_capture_ends_where_its_time_does(looks, monkeypatch):
    w, x = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    captured, clock = capture(recurrence), iter(range(10**6))
    quadratic = quadratic_along(captured)
    with monkeypatch.context() as patched:
        patched.setattr(time_limit.time, "monotonic", lambda: next(clock))
        with within(looks), pytest.raises(CaptureError, match=f"took longer than the {looks} seconds"):
            quadratic(w, w, x)
    expected, scale = double_backward(recurrence, w, w, x)
    for number, true in zip(quadratic(w, w, x), expected, strict=True):
        assert_close(number, true, 1e-12, 1 + scale)


def test_an_observer_whose_capture_takes_too_long_measures_without(caplog):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.ones(5, 3).double(), torch.zeros(5, 2).double()
    found = []
    for seconds in (1e-3, None):
        torch.manual_seed(0)
        for layer in (net[0], net[2]):
            layer.reset_parameters()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with Observer(net, nn.MSELoss(), optimizer, capture_within=seconds) as observer:
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            observer.batch(x, y)
            with caplog.at_level(logging.WARNING, "alpha_func"):
                optimizer.step()
        found.append(observer.last)
    assert "took longer than the 0.001 seconds" in caplog.text
    assert found[0].curvature == pytest.approx(found[1].curvature, rel=1e-12)


@pytest.mark.parametrize("seconds", [0, -1, "soon"])
def test_a_time_that_is_none_is_refused(seconds):
    net = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="capture_within must be a positive number of seconds"):
        Observer(net, nn.MSELoss(), torch.optim.SGD(net.parameters(), lr=0.1), capture_within=seconds)
