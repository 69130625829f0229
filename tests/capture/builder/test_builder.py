"""What a program under construction shares, keeps and refuses."""

from collections import Counter

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func.capture.rewrites import LAWS, rewrite

aten = torch.ops.aten


def test_random_draws_are_neither_shared_nor_dropped():
    def draws(x):
        torch.bernoulli(x)
        return torch.bernoulli(x) + torch.bernoulli(x)

    half = torch.full((1000,), 0.5)
    simple = rewrite(make_fx(draws, tracing_mode="fake")(half), LAWS)
    assert Counter(node.target for node in simple.graph.nodes)[aten.bernoulli.default] == 3
    torch.manual_seed(0)
    expected = draws(half)
    torch.manual_seed(0)
    assert torch.equal(simple(half), expected)


def test_what_writes_in_place_is_refused():
    program = make_fx(lambda x: x.clone().add_(1), tracing_mode="fake")(torch.ones(2))
    with pytest.raises(NotImplementedError, match=r"add_.*in place"):
        rewrite(program, LAWS)
