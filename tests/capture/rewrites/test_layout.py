"""Images that a program convolves lie channels last, and the numbers stay."""

import pytest
import torch
from torch import nn

from alpha_func import capture, from_optimizer, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.capture.rewrites import CHANNELS_LAST, FUSED, rewrite
from alpha_func.capture.sweeps.adjoint import steepest_descent_program

aten = torch.ops.aten
NETS = {
    "conv": lambda: [nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3, bias=False)],
    "residual": lambda: [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 1)],
    "grouped": lambda: [nn.Conv2d(2, 4, 3, stride=2, groups=2), nn.GELU(), nn.Conv2d(4, 3, 2, dilation=2)],
    "transposed": lambda: [nn.ConvTranspose2d(2, 4, 3, stride=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 3, 3)],
    "after a linear layer": lambda: [nn.Linear(8, 8), nn.Tanh(), nn.Conv2d(2, 3, 3)],
}


def problem(name, dtype=torch.float32):
    torch.manual_seed(0)
    layers = NETS[name]()
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).double()
    x, y = torch.randn(4, 2, 8, 8, dtype=torch.float64), torch.randint(3, (4,))
    model(x)
    loss, params = functional_loss(model.to(dtype), nn.CrossEntropyLoss())
    torch.manual_seed(1)
    direction = tree.map(lambda leaf: torch.randn(leaf.shape, dtype=torch.float64).to(dtype), params)
    return loss, params, direction, (x.to(dtype), y)


def program_of(name, dtype=torch.float32):
    loss, params, _, batch = problem(name, dtype)
    return steepest_descent_program(capture(loss).program(params, *batch).graph, len(params))


def convolved(program):
    """The images that the program convolves."""
    count = {aten.convolution.default: 1, aten.convolution_backward.default: 2}
    return [x.meta["val"] for n in program.graph.nodes for x in n.args[: count.get(n.target, 0)]]


@pytest.mark.parametrize("name", NETS)
def test_every_image_that_is_convolved_lies_channels_last(name):
    assert any(not x.is_contiguous(memory_format=torch.channels_last) for x in convolved(program_of(name)))
    laid_out = rewrite(program_of(name), CHANNELS_LAST)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in convolved(laid_out))


def test_a_batch_is_laid_out_once():
    laid_out = rewrite(program_of("residual"), CHANNELS_LAST)
    images = [
        n for n in laid_out.graph.find_nodes(op="call_function", target=aten.clone.default) if n.meta["val"].dim()
    ]
    assert [n.args[0].op for n in images if n.kwargs["memory_format"] is torch.channels_last].count("placeholder") == 1


def test_float64_and_programs_without_images_are_left_as_they_are():
    assert not rewrite(program_of("conv", torch.float64), CHANNELS_LAST).graph.find_nodes(
        op="call_function", target=aten.clone.default
    )
    loss, params = functional_loss(nn.Linear(3, 1), nn.MSELoss())
    program = capture(loss).program(params, torch.randn(2, 3), torch.randn(2, 1)).graph
    assert rewrite(program, CHANNELS_LAST) is program


def test_inner_products_of_images_are_one_kernel():
    fused = rewrite(program_of("residual"), CHANNELS_LAST, FUSED)
    flat = [n.args[0].args[0] for n in fused.graph.find_nodes(op="call_function", target=aten.dot.default)]
    in_order = [x for x in flat if x.target is aten.permute.default]
    assert in_order
    assert all(x.args[0].meta["val"].is_contiguous(memory_format=torch.channels_last) for x in in_order)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETS)
def test_the_numbers_are_those_of_float64(name, memory_format):
    loss, params, direction, (x, y) = problem(name)
    x = x.contiguous(memory_format=memory_format)
    ours, (_, d, descent) = (
        quadratic_along(capture(loss))(params, direction, x, y),
        grad_and_quadratic(capture(loss))(params, x, y),
    )
    loss64, params64, direction64, batch64 = problem(name, torch.float64)
    exact = quadratic_along(loss64)(params64, direction64, *batch64)
    exact_descent = quadratic_along(loss64)(params64, tree.map(torch.Tensor.double, d), *batch64)
    for got, expected in ((ours, exact), (descent, exact_descent)):
        for field in ("value", "slope", "curvature"):
            torch.testing.assert_close(
                getattr(got, field).double(),
                getattr(expected, field),
                rtol=1e-4,
                atol=1e-5,
                msg=lambda m: f"{name}: {m}",
            )


def test_gradients_lie_as_the_parameters_do():
    loss, params, _, batch = problem("residual")
    grads, d, _ = grad_and_quadratic(capture(loss))(params, *batch)
    assert all(leaf.is_contiguous() for part in (grads, d) for leaf in part.values())


def test_a_direction_made_of_the_gradient_sees_the_same_images():
    loss, params, _, batch = problem("residual")
    adam = from_optimizer(torch.optim.Adam, lr=1e-2)
    state = adam.init(params)
    _, d, got = grad_and_quadratic(capture(loss), lambda g: adam.update(g, state, params)[0])(params, *batch)
    loss64, params64, _, batch64 = problem("residual", torch.float64)
    expected = quadratic_along(loss64)(params64, tree.map(torch.Tensor.double, d), *batch64)
    torch.testing.assert_close(got.curvature.double(), expected.curvature, rtol=1e-4, atol=1e-6)
