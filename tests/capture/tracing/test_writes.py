"""Writes in place that need no second trace to be rid of, and those that do."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func.capture.tracing.tracing import _changes_something, _write_nowhere


def read_elsewhere(x):
    new = x.sin()
    return new * 2 + new.add_(1)


def seen_by_a_view(x):
    new = x.sin()
    first = new[:1]
    return new.mul_(2) + first


ALONE = {
    "a_draw_scaled": lambda x: x * torch.empty_like(x).bernoulli_(0.5).div_(0.5),
    "a_number_added": lambda x: x.sin().add_(1),
    "a_square": lambda x: (y := x.sin()).mul_(y),
}
OTHERS = {
    "read_elsewhere": read_elsewhere,
    "seen_by_a_view": seen_by_a_view,
    "in_another_dtype": lambda x: torch.ones_like(x, dtype=torch.int32).mul_(torch.ones(3, dtype=torch.int64)) + x,
    "of_an_input": lambda x: x.add_(1),
    "to_be_lowered": lambda x: torch.empty_like(x).fill_(1) * x,
}


def writes(function):
    graph = make_fx(function, tracing_mode="fake")(torch.ones(3)).graph
    _write_nowhere(graph)
    return sum(map(_changes_something, graph.nodes))


@pytest.mark.parametrize("function", ALONE.values(), ids=ALONE)
def test_what_writes_to_a_new_tensor_of_its_own_gives_it(function):
    assert writes(function) == 0


@pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
def test_what_others_may_see_is_left_to_a_second_trace(function):
    assert writes(function) == 1
