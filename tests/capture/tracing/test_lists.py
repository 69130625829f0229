"""Operators on lists are those on their tensors: every one, on PyTorch's own samples, and captured."""

import pytest
import torch
from torch.testing._internal import common_methods_invocations as database
from torch.utils._python_dispatch import TorchDispatchMode

from alpha_func.capture.tracing.lists import BY_OPERATOR
from tests.capture.test_kinds import assert_captured_exactly
from tests.helpers.whole import a_few_of

OPERATORS = [
    op
    for kind in ("unary", "binary", "pointwise", "reduce", "other")
    for op in getattr(database, f"foreach_{kind}_op_db")
    if not op.name.startswith(("_foreach_zero", "_foreach_copy"))
]


class Compared(TorchDispatchMode):
    """Compares what an operator on lists gives with its composition."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in BY_OPERATOR:
            self.seen.append(func)
            torch.testing.assert_close(BY_OPERATOR[func](*args, **(kwargs or {})), list(out), equal_nan=True)
        return out


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_an_operator_on_lists_is_that_on_each_tensor(op):
    samples = op.sample_inputs("cpu", torch.float64, noncontiguous=False, num_input_tensors=[2])
    with Compared() as compared:
        for sample in samples:
            if not (op.name == "_foreach_sub" and isinstance(sample.args[0], bool)):  # which PyTorch refuses
                op(sample.input, *sample.args, **sample.kwargs)
    assert compared.seen


def step(p, g):
    """One step of SGD with momentum as torch.optim takes it on lists, and of a decay."""
    buffers = torch._foreach_addcmul(torch._foreach_mul(g, 0.9), g, p, 0.1)
    return torch._foreach_lerp(torch._foreach_add(p, buffers, alpha=-0.1), p, 0.2)


LOSSES = {
    "an inner step on lists": lambda p, x: sum(
        t.square().sum() for t in step(list(p.values()), [x * t.sin() for t in p.values()])
    ),
    "a sum of norms": lambda p, x: torch.stack(torch._foreach_norm([x * t for t in p.values()])).square().sum(),
    "quotients in place": lambda p, x: p["a"].clone().addcdiv_(p["b"][0], x.exp(), value=0.3).pow(3).sum(),
    "products in place": lambda p, x: p["a"].clone().addcmul_(p["b"][0], x.exp(), value=0.3).pow(3).sum(),
}


@pytest.mark.parametrize("name", a_few_of(LOSSES, ["an inner step on lists"]))
def test_a_loss_of_lists_is_captured_exactly(name):
    params = {"a": torch.linspace(0.5, 2, 4).double(), "b": torch.linspace(-1, 1, 8).double().view(2, 4)}
    assert_captured_exactly(LOSSES[name], params, torch.linspace(1, 2, 4).double())
