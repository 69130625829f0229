"""torch's functions in place of operators: the same operator runs, on the same numbers."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from alpha_func import tree
from alpha_func.capture.running.binding import FUNCTIONS, bind

aten = torch.ops.aten
X, V = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3) / 9, torch.ones(3, dtype=torch.float64) / 7
CALLS = {
    aten.add.Tensor: [((X, V), {}), ((X, X), {"alpha": -0.5}), ((X, 2), {})],
    aten.addcmul.default: [((X, X, V), {}), ((X, X, V), {"value": 0.3})],
    aten.addmm.default: [((V, X, X), {}), ((X, X, X), {"alpha": 0.3})],
    aten.baddbmm.default: [((X[None], X[None], X[None]), {}), ((X[None], X[None], X[None]), {"alpha": 0.3})],
    aten.bmm.default: [((X[None], X[None]), {})],
    aten.dot.default: [((V, V), {})],
    aten.mean.default: [((X,), {})],
    aten.mm.default: [((X, X), {})],
    aten.mul.Tensor: [((X, V), {}), ((X, 0.3), {})],
    aten.permute.default: [((X, [1, 0]), {})],
    aten.reshape.default: [((X, [9]), {}), ((X.t(), [-1]), {})],
    aten.rsub.Scalar: [((X, 1), {})],
    aten.select.int: [((X, 1, 2), {})],
    aten.sum.default: [((X,), {})],
    aten.sum.dim_IntList: [((X, [0], True), {}), ((X, [0, 1]), {})],
    aten.unsqueeze.default: [((X, 0), {})],
}


class Recorded(TorchDispatchMode):
    """The operators that are called, and what with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.calls.append((operator, args[1:], kwargs))
        return operator(*args, **(kwargs or {}))


def dispatched(function, args, kwargs):
    with Recorded() as recorded:
        result = function(*args, **kwargs)
    return repr(recorded.calls), result


@pytest.mark.parametrize("operator", FUNCTIONS, ids=str)
def test_a_function_dispatches_to_its_operator_and_nothing_else(operator):
    for args, kwargs in CALLS.get(operator, [((X,), {})]):
        expected, value = dispatched(operator, args, kwargs)
        found, same = dispatched(FUNCTIONS[operator], args, kwargs)
        assert found == expected
        assert torch.equal(same, value)


def test_binding_leaves_the_program_as_it_was_and_its_numbers():
    program = make_fx(lambda x: (aten.mul.Tensor(x.tanh(), -1), x @ x, x.cos()))(X)
    before = program.code
    bound = bind(program)
    assert program.code == before
    targets = [node.target for node in bound.graph.nodes if node.op == "call_function"]
    assert targets == [torch.tanh, torch.neg, torch.mm, aten.cos.default]
    for value, expected in zip(bound(X), program(X), strict=True):
        assert torch.equal(value, expected)


def test_an_inner_product_of_long_vectors_is_taken_in_pieces():
    long, short = torch.ones(tree.PIECE + 1), torch.ones(2)
    bound = bind(make_fx(lambda x, y: (aten.dot.default(x, x), aten.dot.default(y, y)))(long, short))
    assert [node.target for node in bound.graph.nodes if node.op == "call_function"] == [tree.dot, torch.dot]
    assert [x.item() for x in bound(long, short)] == [tree.PIECE + 1, 2]
