"""Exactness is not traded: every case holds under every scheme, in float64 and float32, eager and compiled.

A run takes each case under one scheme, and compiles a few that compile differently; ``pytest -m whole`` takes the rest.
"""

import pytest
import torch

from alpha_func import capture, grad_and_quadratic, quadratic_along, tree
from alpha_func.capture.running import reusing
from tests.helpers.exactness_table import CASES, check
from tests.helpers.whole import a_few_of, a_third_of


@pytest.fixture(autouse=True)
def _used_memory_is_written_over_however_small(monkeypatch):
    monkeypatch.setattr(reusing, "_LARGE", 1)


SCHEMES = ("taylor", torch.float64), ("descent", torch.float64), ("parts", torch.float32)
COMPILED = {
    "conv net, max pooling": ("taylor", torch.float64),  # convolutions, indices of a window
    "LayerNorm": ("descent", torch.float64),  # reductions over features
    "scaled_dot_product_attention, causal": ("parts", torch.float64),  # transposed activations, saved between programs
    "cross_entropy, label smoothing and weights": ("descent", torch.float32),  # gathers, constants of the program
}


def name_of(value):
    return str(value).removeprefix("torch.")


@pytest.mark.parametrize(("name", "scheme", "dtype"), a_third_of(CASES, SCHEMES), ids=name_of)
def test_scheme_is_exact_on(name, scheme, dtype):
    check(name, scheme, "eager", dtype)


@pytest.mark.parametrize("name", a_few_of(CASES, COMPILED))
def test_compiled_scheme_is_exact_on(name):
    scheme, dtype = COMPILED.get(name, SCHEMES[0])
    check(name, scheme, "inductor", dtype)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["LayerNorm", "LSTM", "Dropout"])
def test_a_first_call_without_autograd_is_the_same(name, mode):
    case = CASES[name]()
    expected = quadratic_along(capture(case.loss))(case.params, case.direction, *case.args)
    loss = capture(case.loss)
    with mode():
        params, args = tree.map(torch.clone, case.params), tree.map(torch.clone, case.args)
        calls = [quadratic_along(loss)(params, case.direction, *args)]
        calls.append(grad_and_quadratic(loss, lambda _: case.direction)(params, *args).quadratic)
    calls.append(quadratic_along(loss)(case.params, case.direction, *case.args))
    for quadratic in calls:
        for got, want in zip(quadratic, expected, strict=True):
            torch.testing.assert_close(got.clone(), want, rtol=1e-12, atol=1e-12)


def test_float32_lstm_is_captured_in_primitives():
    case = CASES["LSTM"]()
    case.loss.model.float()
    params, args = tree.map(torch.Tensor.float, case.params), tree.map(torch.Tensor.float, case.args)
    counts = capture(case.loss).program(params, *args).counts
    assert not any("rnn" in name or "lstm" in name for name in counts), counts
