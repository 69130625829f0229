"""Taylor and adjoint programs against dense Hessians, differences and float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import tree
from tests.helpers.cases import ACTIVATIONS, MODULES, line, mlp, mse_net, sequences
from tests.helpers.programs import adjoint, descent, lowered_case, taylor
from tests.helpers.reference import assert_close, assert_quadratic, dense_with_math_attention, differences, flat


def images(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip
    return line(net, F.cross_entropy, torch.randn(8, 2, 6, 6), torch.randint(3, (8,)), dtype=dtype, seed=seed)


def weight_normed(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    net = mlp([3, 5, 2])
    torch.nn.utils.parametrizations.weight_norm(net[0])
    return line(net, nn.MSELoss(), torch.randn(8, 3), torch.randn(8, 2), dtype=dtype, seed=seed)


CASES = {
    **MODULES,
    **{name: lambda make=make, **how: mse_net(activation=make, **how) for name, make in ACTIVATIONS.items()},
    "images": images,
    "lstm": sequences,
}


@pytest.mark.parametrize("name", CASES)
def test_taylor_and_adjoint_are_exact_on(name):
    case = CASES[name]()
    truth = dense_with_math_attention(case)
    program = lowered_case(case)
    assert_quadratic(taylor(program, case), truth, case.direction, 1e-11)
    grads, quadratic = adjoint(program, case)
    assert (flat(grads) - truth.gradient).norm() <= 1e-11 * truth.gradient.norm()
    assert_quadratic(quadratic, truth, case.direction, 1e-11)
    grads, directions, quadratic = descent(program, case)
    assert torch.equal(flat(directions), -flat(grads))
    assert_quadratic(quadratic, truth, directions, 1e-11)


def test_weight_norm_agrees_with_differences():
    case = weight_normed()
    seen = differences(case.loss, case.params, case.direction, *case.args)
    program = lowered_case(case)
    for got in (taylor(program, case), adjoint(program, case)[1]):
        for number, expected in zip(got, seen, strict=True):
            assert_close(number, expected, 1e-7, 1 + abs(expected))


@pytest.mark.parametrize("name", ["batch_norm_train", "layer_norm", "attention", "tied", "images", "lstm", "silu"])
def test_float32_is_near_float64_on(name):
    case, low = CASES[name](), CASES[name](dtype=torch.float32)
    truth = dense_with_math_attention(case)
    low = low._replace(direction=tree.map(lambda t: t.float(), case.direction))
    program = lowered_case(low)
    assert_quadratic(taylor(program, low), truth, case.direction, 1e-4)
    assert_quadratic(adjoint(program, low)[1], truth, case.direction, 1e-4)
