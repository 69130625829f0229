"""Each law by itself: what is left of a program, and that its numbers stay."""

from collections import Counter

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func.capture.rewrites import FUSED, LAWS, rewrite

aten = torch.ops.aten
X, Y = torch.arange(6.0).reshape(2, 3) + 1, torch.linspace(-1, 1, 6).reshape(2, 3)

# name: (program, the calls that are left of it)
SIMPLER = {
    "aliases": (lambda x, y: aten.alias.default(x).clone() + y, {"add": 1}),
    "detached": (lambda x, y: x.detach().clone() + y, {"detach": 1, "add": 1}),
    "same_dtype": (lambda x, y: aten._to_copy.default(x, dtype=torch.float32) + y, {"add": 1}),
    "times_one": (lambda x, y: x * 1 + y, {"add": 1}),
    "zero_times": (lambda x, y: torch.zeros_like(x) * x + y, {}),
    "zero_passes_linear_operators": (lambda x, y: y + (torch.zeros_like(x).t() @ x).sum(), {}),
    "ones_are_numbers": (lambda x, y: torch.ones_like(x) * x + y, {"add": 1}),
    "same_terms": (lambda x, y: x + y + x, {"mul": 1, "add": 1}),
    "opposite_terms": (lambda x, y: (x + y) - x, {}),
    "commuted_products": (lambda x, y: x * y + y * x, {"mul": 2}),
    "commuted_sums": (lambda x, y: (x + y) * (y + x), {"add": 1, "mul": 1}),
    "factors_are_collected": (lambda x, y: (2 * x) * (3 * y) / 6, {"mul": 1}),
    "transposes_of_transposes": (lambda x, y: x.t().t() + y, {"add": 1}),
    "views_of_views": (lambda x, y: (x * y).view(6).view(3, 2).view(2, 3), {"mul": 1}),
    "unsqueezed_and_squeezed": (lambda x, y: (x * y).unsqueeze(0).squeeze(0), {"mul": 1}),
    "expands_in_products": (lambda x, y: x[0].expand(2, 3) * y, {"select": 1, "mul": 1}),
    "squares": (lambda x, y: x**2 + x * x + 0 * y[0, 0], None),
    "sums_of_multiples": (lambda x, y: (2 * x).sum() - x.sum() + y, {"sum": 1, "add": 1}),
    "common_subexpressions": (lambda x, y: torch.tanh(x) * y + torch.tanh(x), {"tanh": 1, "mul": 1, "add": 1}),
    "dead_code": (lambda x, y: (torch.exp(x), x + y)[1], {"add": 1}),
}


def names(program):
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return Counter(str(call).split(".")[1] for call in calls)


@pytest.mark.parametrize("name", SIMPLER)
def test_law_keeps_the_numbers_and_leaves_only_what_is_needed(name):
    function, left = SIMPLER[name]
    simple = rewrite(make_fx(function, tracing_mode="fake")(X, Y), LAWS)
    assert left is None or {k: n for k, n in names(simple).items() if k != "full"} == left
    torch.testing.assert_close(simple(X, Y), function(X, Y))


FUSIONS = {
    "addmm": (lambda x, y: x + 2 * (x @ (y.t() @ y)), {"permute": 1, "mm": 1, "addmm": 1}),
    "addcmul": (lambda x, y: x + 3 * (x * y), {"addcmul": 1}),
    "rsub": (lambda x, y: 3 - x * y, {"mul": 1, "rsub": 1}),
    "scaled_add": (lambda x, y: x - 0.5 * y, {"add": 1}),
}


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_keeps_the_numbers(name):
    function, left = FUSIONS[name]
    fused = rewrite(make_fx(function, tracing_mode="fake")(X, Y), LAWS, FUSED)
    assert names(fused) == left
    torch.testing.assert_close(fused(X, Y), function(X, Y))
