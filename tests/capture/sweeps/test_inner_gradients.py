"""Losses that take a derivative of themselves by torch.autograd.grad: captured, and exact against double backward."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, errors, functional_loss, grad_and_quadratic, quadratic_along, tree
from tests.helpers.reference import assert_close, differences, double_backward
from tests.helpers.whole import a_few_of

grad = torch.autograd.grad


def mlp(*sizes):
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def leaf(x):
    return x.detach().requires_grad_()


def burgers(net, x):
    x = leaf(x)
    u = net(x)
    du = grad(u.sum(), x, create_graph=True)[0]
    d2u = grad(du[:, 0].sum(), x, create_graph=True)[0]
    return (du[:, 1] + u[:, 0] * du[:, 0] - 0.1 * d2u[:, 0]).square().mean()


def wgan_gp(net, x):
    real, fake = x, x.flip(0) + 0.5
    between = leaf(0.3 * real + 0.7 * fake)
    slope = grad(net(between).sum(), between, create_graph=True, retain_graph=True, only_inputs=True)[0]
    return net(fake).mean() - net(real).mean() + 10 * (slope.flatten(1).norm(2, dim=1) - 1).square().mean()


def r1(net, x):
    x.requires_grad_()
    out = net(x)
    slope = grad(out, x, torch.ones_like(out), create_graph=True)[0]
    return F.softplus(-out).mean() + 5 * slope.square().sum(list(range(1, x.ndim))).mean()


def forces(net, x):
    x = leaf(x)
    distances = (x[:, None] - x[None] + torch.eye(len(x)).double()[..., None]).norm(dim=-1)
    energy = net(distances.reshape(-1, 1)).sum()
    return (-grad(energy, x, create_graph=True)[0] - 0.1).square().mean() + energy**2


def adversarial(net, x):
    x = leaf(x)
    slope = grad(net(x).square().mean(), x)[0]
    return net(x + 0.1 * slope.sign() + 0.01 * slope).square().mean()


def adversarial_by_backward(net, x):
    x = x.clone()
    x.requires_grad = True
    net(x).square().mean().backward()
    return net(x + 0.1 * x.grad).square().mean()


def hessian_vector_product(net, x):
    x = leaf(x)
    (g,) = grad(net(x).exp().sum(), x, create_graph=True)
    (hv,) = grad(g, x, torch.ones_like(g), create_graph=True)
    return hv.square().mean()


def two_leaves_of_one_tensor(net, x):
    a, b = leaf(x), leaf(x)
    da, db = grad((net(a) * net(2 * b)).sum(), [a, b], create_graph=True)
    return (da - 3 * db).square().mean()


def of_an_input_and_what_is_made_of_it(net, x):
    x = leaf(x)
    y = x.tanh()
    dx, dy = grad(net(y).square().sum(), [x, y], create_graph=True)
    return (dx * dy).mean()


def unused_input(net, x):
    x, other = leaf(x), torch.zeros(2, requires_grad=True)
    dx, none = grad(net(x).sum(), [x, other], create_graph=True, allow_unused=True)
    _, zero = grad(net(x).sum(), [x, other], create_graph=True, materialize_grads=True)
    return dx.square().mean() + zero.sum() + float(none is None)


def of_the_weights(net, x):
    params = dict(net.named_parameters())
    for _ in range(2):  # two inner steps
        inner = torch.func.functional_call(net, params, (x,)).square().mean()
        grads = grad(inner, list(params.values()), create_graph=True)
        params = {name: p - 0.3 * g for (name, p), g in zip(params.items(), grads, strict=True)}
    return torch.func.functional_call(net, params, (x.flip(0),)).square().mean()


def critic():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Softplus(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 1))


def normed():
    return nn.Sequential(nn.Linear(2, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 1))


def batch_normed():
    return nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.SiLU(), nn.Linear(5, 1))


class Attended(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(2, 1, batch_first=True), nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.attention(x[None], x[None], x[None], need_weights=False)[0][0])


CASES = {
    "physics-informed net": (burgers, mlp(2, 6, 1), (5, 2)),
    "gradient penalty": (wgan_gp, mlp(2, 6, 1), (5, 2)),
    "gradient penalty of images": (wgan_gp, critic(), (3, 2, 4, 4)),
    "R1 of images": (r1, critic(), (3, 2, 4, 4)),
    "R1 through LayerNorm": (r1, normed(), (5, 2)),
    "R1 through BatchNorm": (r1, batch_normed(), (5, 2)),
    "R1 through attention": (r1, Attended(), (5, 2)),
    "forces": (forces, mlp(1, 6, 1), (4, 3)),
    "adversarial example": (adversarial, mlp(2, 6, 1), (5, 2)),
    "adversarial example by backward()": (adversarial_by_backward, mlp(2, 6, 1), (5, 2)),
    "Hessian-vector product": (hessian_vector_product, mlp(2, 6, 1), (5, 2)),
    "two leaves of one tensor": (two_leaves_of_one_tensor, mlp(2, 6, 1), (5, 2)),
    "an input and what is made of it": (of_an_input_and_what_is_made_of_it, mlp(2, 6, 2), (5, 2)),
    "an unused input": (unused_input, mlp(2, 6, 1), (5, 2)),
    "MAML": (of_the_weights, mlp(2, 6, 1), (5, 2)),
    "MAML through LayerNorm": (of_the_weights, normed(), (5, 2)),
}
THIRD = "R1 through LayerNorm", "R1 through BatchNorm", "MAML through LayerNorm"  # pytorch#196700: differences there

FEW = "gradient penalty", "R1 of images", "adversarial example by backward()", "two leaves of one tensor"
FEW += "an input and what is made of it", "an unused input", "MAML"


class Within(nn.Module):
    def __init__(self, objective, net):
        super().__init__()
        self.net, self.objective = net, objective

    def forward(self, x):
        return self.objective(self.net, x)


@pytest.mark.parametrize("name", a_few_of(CASES, FEW))
def test_a_derivative_within_the_loss_is_captured_and_exact(name):
    objective, net, shape = CASES[name]
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    loss, params = functional_loss(Within(objective, net.double()))
    x, d = torch.randn(shape).double(), tree.map(torch.randn_like, params)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        truth, norm = double_backward(loss, params, d, x.clone())
    scale, tolerance = tree.norm(d) * norm, 1e-10
    if name in THIRD:
        truth, tolerance = differences(lambda p: loss(tree.map(leaf, p), x.clone()).detach(), params, d), 1e-7
    captured = capture(loss, strict=True)
    by_sweep = quadratic_along(captured)(params, d, x)
    by_adjoint = grad_and_quadratic(captured, lambda _: d)(params, x).quadratic
    for got in (by_sweep, by_adjoint):
        assert_close(got.value, truth.value, 1e-12)
        assert_close(got.slope, truth.slope, 10 * tolerance)
        assert_close(got.curvature, truth.curvature, tolerance, scale)
    assert not x.requires_grad
    assert captured.captured == 1


def test_a_batch_of_derivatives_at_once_is_refused_with_its_name():
    def loss(w, x):
        x = leaf(x)
        u = (x * w).sin()
        return grad(u, x, torch.eye(2), create_graph=True, is_grads_batched=True)[0].square().sum()

    with pytest.raises(errors.CaptureError, match="is_grads_batched"):
        capture(loss)(torch.ones(2), torch.ones(2))


def by_backward(p):
    x = p.detach().sin().requires_grad_()
    (x * p).square().sum().backward(create_graph=True)
    return x.grad.square().sum()


@pytest.mark.filterwarnings("ignore:Using backward")  # what it says of cycles
def test_what_backward_leaves_in_grad_has_the_derivatives_of_a_graph():
    p = torch.linspace(-1, 1, 5).double()
    at = p.clone().requires_grad_()
    (expected,) = grad(by_backward(at), at)
    (got,) = grad(capture(by_backward)(at), at)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_a_hook_on_a_gradient_that_the_loss_takes_is_refused():
    def loss(p):
        y = p.sin()
        y.register_hook(lambda g: 3 * g)
        return grad(y.sum(), p, create_graph=True)[0].square().sum()

    with pytest.raises(errors.CaptureError, match="register_hook"):
        capture(loss)(torch.linspace(-1, 1, 5).double())


def test_a_gradient_at_the_knees_of_hardsigmoid_is_that_of_pytorch():
    def slopes(p):
        x = torch.tensor([-3.0, 3.0, 0.5]).double().requires_grad_()
        return (grad(F.hardsigmoid(x).sum(), x, create_graph=True)[0] * p).sum()

    p = torch.tensor([1.0, 2.0, 6.0]).double()
    assert_close(capture(lambda p: slopes(p).float())(p), slopes(p).float(), 1e-6)  # PyTorch has 1/6 in float32 there
