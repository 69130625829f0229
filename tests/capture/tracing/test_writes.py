"""Writes in place that need no second trace to be rid of, and those that do."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func.capture.tracing.writes import changes_something, write_nowhere


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
    "pieces_of_its_own": lambda x: torch.cat([y.sigmoid_() for y in torch.unsafe_chunk(x.sin(), 3)]),
}
OTHERS = {
    "read_elsewhere": read_elsewhere,
    "seen_by_a_view": seen_by_a_view,
    "piece_of_an_input": lambda x: torch.unsafe_chunk(x, 3)[0].sin_(),
    "piece_of_what_is_read": lambda x: torch.unsafe_chunk(y := x.sin(), 3)[0].sin_() + y,
    "piece_by_a_view": lambda x: x.sin().chunk(3)[0].sin_(),
    "in_another_dtype": lambda x: torch.ones_like(x, dtype=torch.int32).mul_(torch.ones(3, dtype=torch.int64)) + x,
    "of_an_input": lambda x: x.add_(1),
    "to_be_lowered": lambda x: torch.empty_like(x).fill_(1) * x,
}


def writes(function):
    graph = make_fx(function, tracing_mode="fake")(torch.ones(3)).graph
    write_nowhere(graph)
    return sum(map(changes_something, graph.nodes))


@pytest.mark.parametrize("function", ALONE.values(), ids=ALONE)
def test_what_writes_to_a_new_tensor_of_its_own_gives_it(function):
    assert writes(function) == 0


@pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
def test_what_others_may_see_is_left_to_a_second_trace(function):
    assert writes(function) == 1


def test_what_has_other_strides_now_is_seen_by_what_reads_it():
    def function(x):
        return torch.unsafe_chunk(x.sin(), 2, 1)[0].sigmoid_().t()

    graph = make_fx(function, tracing_mode="fake")(torch.ones(2, 6)).graph
    write_nowhere(graph)
    val = next(node for node in reversed(graph.nodes) if node.op == "call_function").meta["val"]
    assert val.stride() == torch.ones(2, 6)[:, :3].sigmoid().t().stride() == (1, 3)
