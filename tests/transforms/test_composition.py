"""Every transform inside torch.func's own, on every kind of tree, dtype and device."""

from typing import NamedTuple

import pytest
import torch
from torch import func, nn
from torch.nn import functional as F
from torch.utils._pytree import register_pytree_node

from alpha_func import Quadratic, grad_and_quadratic, hvp, optimal_alpha, quadratic_along, tree
from alpha_func.transforms import STRATEGIES, reverse_over_reverse
from tests.helpers.cases import MODULES, mse_net, squared_error
from tests.helpers.reference import assert_close, dense, extrapolated, flat

# What the guard refuses: PyTorch's forward rules of these are wrong when they are differentiated again.
_NORMED = ("layer_norm", "batch_norm_train", "batch_norm_eval", "encoder_layer_eval")
REFUSED = {(name, strategy) for name in _NORMED for strategy in ("reverse_over_forward", "forward_over_forward")}
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SIMPLE_MODULES = {name: make for name, make in MODULES.items() if name != "tied"}  # tied has its own criterion


def softplus_loss(params, x, y):
    """A net by hand, with every strategy, of any tree of a (3, 4) and a (4,) tensor."""
    first, second = sorted(tree.leaves(params), key=lambda leaf: -leaf.ndim)
    return F.softplus(torch.tanh(x @ first) @ second - y).mean()


def operands(seed=0, dtype=torch.float64, device="cpu"):
    """Weights, biases and a batch, and random directions for the first two."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (4,), (6, 3), (6,), (3, 4), (4,)]
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(device, dtype) for s in shapes]


def by_hand(seed=0, dtype=torch.float64, device="cpu"):
    w, v, x, y, dw, dv = operands(seed, dtype, device)
    return {"w": w, "v": v}, {"w": dw, "v": dv}, (x, y)


def stacked(trees):
    return tree.map(lambda *leaves: torch.stack(leaves), *trees)


def directions(params, count=3):
    return [tree.randn_like(params, generator=torch.Generator().manual_seed(i)) for i in range(count)]


def assert_trees_close(got, expected, tol):
    assert tree.structure(got) == tree.structure(expected)
    error, size = (flat(got) - flat(expected)).norm(), flat(expected).norm()
    assert error <= tol * size, f"error {float(error)} of {float(size)}"


def assert_quadratics_close(got, expected, scales, tol=1e-12):
    for field, scale in zip(Quadratic._fields, scales, strict=True):
        error = (getattr(got, field) - getattr(expected, field)).abs()
        assert (error <= tol * scale).all(), (field, getattr(got, field), getattr(expected, field))


def derivative_along(f, params, v):
    """d/dt f(params + t·v) at 0, by extrapolated differences in float64."""
    steps = [0.1 / 1.6**k for k in range(10)]
    return extrapolated([(f(tree.axpy(s, v, params)) - f(tree.axpy(-s, v, params))) / (2 * s) for s in steps], 1.6)


# vmap


@pytest.mark.parametrize(
    ("name", "strategy"),
    [(name, strategy) for name in MODULES for strategy in STRATEGIES if (name, strategy) not in REFUSED],
)
def test_vmap_over_directions_is_the_loop_over_them(name, strategy):
    case = MODULES[name](criterion=squared_error) if name in SIMPLE_MODULES else MODULES[name]()
    many = directions(case.params)
    line, product = (verb(case.loss, strategy=strategy) for verb in (quadratic_along, hvp))

    def both(d):
        return line(case.params, d, *case.args), product(case.params, d, *case.args)

    lines, products = func.vmap(both, randomness="same")(stacked(many))
    expected_lines, expected_products = (stacked(parts) for parts in zip(*map(both, many), strict=True))
    assert_trees_close(products, expected_products, 1e-12)
    norms = torch.stack([tree.norm(d) for d in many])
    gradient = tree.norm(func.grad(case.loss)(case.params, *case.args))
    hds = func.vmap(tree.norm)(expected_products)
    assert_quadratics_close(lines, expected_lines, (1 + expected_lines.value, norms * gradient, norms * hds))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_vmap_over_examples_is_the_loop_over_them(strategy):
    params, d, (x, y) = by_hand()
    alpha = optimal_alpha(softplus_loss, strategy=strategy)
    got = func.vmap(lambda xi, yi: alpha(params, d, xi[None], yi[None]))(x, y)
    for i, one in enumerate(got):
        assert_close(one, alpha(params, d, x[i : i + 1], y[i : i + 1]), 1e-11)  # 1e-11: α* divides by a curvature


def test_vmap_over_examples_goes_through_a_module():
    case = mse_net(2, batch=5, activation=nn.Tanh)
    step = grad_and_quadratic(case.loss)
    got = func.vmap(step, in_dims=(None, 0, 0))(case.params, *case.args)
    for i in range(5):
        expected = step(case.params, *(a[i] for a in case.args))
        assert_trees_close(tree.map(lambda t: t[i], got.grads), expected.grads, 1e-12)  # noqa: B023
        assert_close(got.quadratic.curvature[i], expected.quadratic.curvature, 1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_vmap_over_an_ensemble_of_parameters_is_the_loop_over_them(strategy):
    points = [by_hand(seed) for seed in range(3)]
    step = grad_and_quadratic(softplus_loss, strategy=strategy)
    got = func.vmap(step, in_dims=(0, None, None))(stacked([p for p, _, _ in points]), *points[0][2])
    for i, (params, _, _) in enumerate(points):
        assert_close(got.quadratic.alpha[i], step(params, *points[0][2]).quadratic.alpha, 1e-11)  # as above


def test_vmaps_nest_to_a_table_of_examples_and_directions():
    params, _, (x, y) = by_hand()
    alpha, many = optimal_alpha(softplus_loss), directions(params)
    per_example = func.vmap(lambda d, xi, yi: alpha(params, d, xi[None], yi[None]), in_dims=(None, 0, 0))
    table = func.vmap(per_example, in_dims=(0, None, None))(stacked(many), x, y)
    assert table.shape == (3, 6)
    assert_close(table[2, 1], alpha(params, many[2], x[1:2], y[1:2]), 1e-11)  # as above


# Derivatives of α*


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(3))
def test_alpha_can_be_differentiated_in_both_modes(seed, strategy):
    params, d, args = by_hand(seed)
    _, v, _ = by_hand(seed + 10)

    def alpha(p):
        return optimal_alpha(softplus_loss, strategy=strategy)(p, d, *args)

    expected = derivative_along(alpha, params, v)
    # 1e-7: what differences resolve
    assert_close(tree.vdot(func.grad(alpha)(params), v), expected, 1e-7, 1 + abs(expected))
    assert_close(func.jvp(alpha, (params,), (v,))[1], expected, 1e-7, 1 + abs(expected))


@pytest.mark.parametrize("name", ["mlp", "conv", "attention", "dropout", "frozen", "tied", "unused", "batch_norm_eval"])
def test_gradient_of_alpha_goes_through_a_module(name):
    # Not layer_norm and train-mode batch_norm: PyTorch's own third derivative is wrong there.
    case = MODULES[name]()
    v = tree.randn_like(case.params, generator=torch.Generator().manual_seed(7))

    def curvature(p):
        return quadratic_along(case.loss)(p, case.direction, *case.args).curvature

    expected = derivative_along(curvature, case.params, v)
    gradient = func.grad(curvature)(case.params)
    # 1e-7: what differences resolve
    assert_close(tree.vdot(gradient, v), expected, 1e-7, 1 + abs(expected))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_gradient_of_alpha_by_the_direction_obeys_eulers_theorem(strategy):
    params, d, args = by_hand()

    def alpha(direction):
        return optimal_alpha(softplus_loss, strategy=strategy)(params, direction, *args)

    # α*(c·d) = α*(d)/c is homogeneous of degree −1, so dᵀ∇α* = −α*
    assert_close(tree.vdot(d, func.grad(alpha)(d)), -alpha(d), 1e-11)  # 1e-11: α* divides by a curvature


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_curvature_can_be_differentiated_by_autograd_too(strategy):
    params, d, args = by_hand()

    def curvature(p):
        return quadratic_along(softplus_loss, strategy=strategy)(p, d, *args).curvature

    leaves = tree.map(lambda t: t.clone().requires_grad_(), params)
    grads = torch.autograd.grad(curvature(leaves), tree.leaves(leaves))
    assert_trees_close(list(grads), tree.leaves(func.grad(curvature)(params)), 1e-12)


# Modes of autograd


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_mode_of_autograd_gives_the_same_numbers(strategy, mode):
    case = MODULES["attention"](criterion=squared_error)

    def everything():
        line = quadratic_along(case.loss, strategy=strategy)(case.params, case.direction, *case.args)
        hd = hvp(case.loss, strategy=strategy)(case.params, case.direction, *case.args)
        step = grad_and_quadratic(case.loss, strategy=strategy)(case.params, *case.args)
        return line, hd, step

    expected = everything()
    with mode():
        got = everything()
    assert torch.equal(flat(got), flat(expected))


def test_parameters_made_in_inference_mode_serve_outside_it():
    params, d, args = by_hand()
    with torch.inference_mode():
        inference = tree.map(torch.clone, params)
    assert optimal_alpha(softplus_loss)(inference, d, *args) == optimal_alpha(softplus_loss)(params, d, *args)


def test_parameters_that_require_grad_change_no_number_and_get_no_grad():
    params, d, args = by_hand()
    leaves = tree.map(lambda t: t.clone().requires_grad_(), params)
    got, expected = (quadratic_along(softplus_loss)(p, d, *args) for p in (leaves, params))
    assert torch.equal(flat(got).detach(), flat(expected))
    assert all(leaf.grad is None for leaf in tree.leaves(leaves))
    assert not any(number.requires_grad for number in expected)


# Quadratics as trees


def test_quadratics_stack_and_index_as_trees():
    params, _, args = by_hand()
    lines = [quadratic_along(softplus_loss)(params, d, *args) for d in directions(params)]
    together = stacked(lines)
    assert isinstance(together, Quadratic)
    assert torch.equal(together.alpha, torch.stack([q.alpha for q in lines]))
    assert torch.equal(together(0.5), torch.stack([q(0.5) for q in lines]))
    assert tree.map(lambda t: t[1], together) == lines[1]


# dtype and device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dtype_and_device_follow_the_parameters(strategy, dtype, device):
    params, d, args = by_hand(dtype=dtype, device=device)
    numbers = torch.promote_types(dtype, torch.float32)
    step = grad_and_quadratic(softplus_loss, strategy=strategy)(params, *args)
    line = quadratic_along(softplus_loss, strategy=strategy)(params, d, *args)
    hd = hvp(softplus_loss, strategy=strategy)(params, d, *args)
    for number in (*line, line.alpha, *step.quadratic):
        assert (number.dtype, number.device.type, number.shape) == (numbers, device, ())
    for vector in (hd, step.grads, step.direction):
        assert [(t.dtype, t.device.type, t.shape) for t in vector.values()] == [
            (dtype, device, t.shape) for t in params.values()
        ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_low_precision_agrees_with_float64_at_the_same_point(strategy, dtype):
    params, d, args = by_hand(dtype=dtype)
    high = tree.map(torch.Tensor.double, (params, d, args))
    truth = dense(softplus_loss, high[0], *high[2])
    expected = truth.quadratic_along(high[1])
    got = quadratic_along(softplus_loss, strategy=strategy)(params, d, *args)
    tol = 8 * torch.finfo(dtype).eps  # a few operators deep, each rounding to the dtype
    vector = flat(high[1])
    assert_close(got.value, expected.value, tol)
    assert_close(got.slope, expected.slope, tol, vector.norm() * truth.gradient.norm())
    assert_close(got.curvature, expected.curvature, tol, vector.norm() * (truth.hessian @ vector).norm())


def test_inner_products_of_bfloat16_do_not_saturate():
    # In bfloat16 a sum of ones stops at 256.
    ones = torch.ones(4096, dtype=torch.bfloat16)
    q = quadratic_along(lambda p: (p.float() ** 2).sum() / 2)(ones, ones)
    assert [float(number) for number in q] == [2048.0, 4096.0, 4096.0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_leaves_may_differ_in_dtype(strategy):
    params = {"a": torch.ones(2, dtype=torch.float32), "b": torch.ones(3, dtype=torch.float64)}
    q = quadratic_along(lambda p: (p["a"].sum() * p["b"].sum()) ** 2, strategy=strategy)(params, params)
    hd = hvp(lambda p: (p["a"].sum() * p["b"].sum()) ** 2, strategy=strategy)(params, params)
    assert [float(number) for number in q] == [36.0, 144.0, 432.0]  # h(α) = 36(1 + α)⁴
    assert [leaf.dtype for leaf in hd.values()] == [torch.float32, torch.float64]


# Trees


class Net(NamedTuple):
    """A NamedTuple of parameters."""

    w: torch.Tensor
    v: torch.Tensor


class Registered:
    """A node that torch.func knows by registration only."""

    def __init__(self, w, v):
        self.w, self.v = w, v


register_pytree_node(Registered, lambda net: ([net.w, net.v], None), lambda children, _: Registered(*children))

CONTAINERS = {
    "dict": lambda w, v: {"w": w, "v": v},
    "reversed_dict": lambda w, v: {"v": v, "w": w},
    "list": lambda w, v: [w, v],
    "tuple": lambda w, v: (w, v),
    "named_tuple": Net,
    "registered": Registered,
    "nested": lambda w, v: {"layers": [{"w": w}, ({"v": v},)]},
    "empty_parts": lambda w, v: {"w": w, "none": {}, "v": [v, ()]},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_holds_parameters(name, strategy):
    w, v, x, y, dw, dv = operands()
    params, d = CONTAINERS[name](w, v), CONTAINERS[name](dw, dv)
    expected = quadratic_along(softplus_loss, strategy=strategy)((w, v), (dw, dv), x, y)
    got = quadratic_along(softplus_loss, strategy=strategy)(params, d, x, y)
    for number, truth in zip(got, expected, strict=True):
        assert_close(number, truth, 1e-12)
    hd = hvp(softplus_loss, strategy=strategy)(params, d, x, y)
    step = grad_and_quadratic(softplus_loss, strategy=strategy)(params, x, y)
    for vector in (hd, step.grads, step.direction):
        assert type(vector) is type(params)
        assert tree.structure(vector) == tree.structure(params)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_a_single_tensor_is_a_tree(shape, strategy):
    x = torch.full(shape, 2.0, dtype=torch.float64)
    q = quadratic_along(lambda p: (p**3).sum(), strategy=strategy)(x, torch.ones_like(x))
    assert [float(number) for number in q] == [8.0 * x.numel(), 12.0 * x.numel(), 12.0 * x.numel()]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_dict_pairs_with_the_direction_by_key(strategy):
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    params, d = {"a": a, "b": b}, {"b": 10 * b, "a": a}

    def loss(p):
        return (p["a"] ** 2).sum() + (p["b"] ** 3).sum()

    q = quadratic_along(loss, strategy=strategy)(params, d)
    hd = hvp(loss, strategy=strategy)(params, d)
    assert [float(number) for number in q] == [96.0, 2740.0, 54610.0]
    assert list(hd) == ["a", "b"]
    assert hd["b"].tolist() == [540.0, 960.0]
    step = grad_and_quadratic(loss, lambda g: {"b": -g["b"], "a": -g["a"]}, strategy=strategy)(params)
    assert list(step.direction) == ["a", "b"]
    assert torch.equal(step.direction["b"], -step.grads["b"])


# The caller's own strategy


def central_differences(loss, params, direction):
    """Exact on a quadratic loss, for any step."""
    plus, here, minus = (loss(tree.axpy(s, direction, params)) for s in (0.5, 0.0, -0.5))
    return Quadratic(here, plus - minus, 4 * (plus - 2 * here + minus))


def wrapped(loss, params, direction):
    return reverse_over_reverse(loss, params, direction)


def least_squares(params, x, y):
    return (x @ params["w"] @ torch.ones(4, dtype=x.dtype) + params["v"].sum() - y).square().mean()


@pytest.mark.parametrize("strategy", [central_differences, wrapped])
def test_the_callers_own_strategy_serves_every_verb(strategy):
    params, d, args = by_hand()
    expected = quadratic_along(least_squares)(params, d, *args)
    got = quadratic_along(least_squares, strategy=strategy)(params, d, *args)
    for number, truth in zip(got, expected, strict=True):
        assert_close(number, truth, 1e-12)
    assert_close(optimal_alpha(least_squares, strategy=strategy)(params, d, *args), expected.alpha, 1e-12)
    hd = hvp(least_squares, strategy=strategy)(params, d, *args)
    assert_trees_close(hd, hvp(least_squares)(params, d, *args), 1e-12)
    step = grad_and_quadratic(least_squares, strategy=strategy)(params, *args)
    assert_close(step.quadratic.alpha, grad_and_quadratic(least_squares)(params, *args).quadratic.alpha, 1e-12)


@pytest.mark.parametrize("strategy", [central_differences, wrapped])
def test_the_callers_own_strategy_composes(strategy):
    params, d, args = by_hand()
    many = directions(params)
    alpha = optimal_alpha(least_squares, strategy=strategy)
    batched = func.vmap(lambda direction: alpha(params, direction, *args))(stacked(many))
    for one, direction in zip(batched, many, strict=True):
        assert_close(one, optimal_alpha(least_squares)(params, direction, *args), 1e-11)  # 1e-11: α* divides
    got = func.grad(lambda p: alpha(p, d, *args))(params)
    expected = func.grad(lambda p: optimal_alpha(least_squares)(p, d, *args))(params)
    assert_trees_close(got, expected, 1e-11)  # as above


# Arguments of the loss


def test_arguments_of_the_loss_may_be_keywords_and_trees():
    params, d, (x, y) = by_hand()

    def loss(params, batch, *, weight):
        return weight * softplus_loss(params, batch["x"], batch["y"])

    alone = quadratic_along(softplus_loss)(params, d, x, y)
    weighted = quadratic_along(loss)(params, d, {"x": x, "y": y}, weight=3.0)
    assert_close(weighted.curvature, 3 * alone.curvature, 1e-12)
    assert_close(optimal_alpha(loss)(params, d, {"x": x, "y": y}, weight=3.0), alone.alpha, 1e-12)
    product = hvp(loss)(params, d, {"x": x, "y": y}, weight=3.0)
    assert_trees_close(product, tree.scale(3.0, hvp(softplus_loss)(params, d, x, y)), 1e-12)
    step = grad_and_quadratic(loss)(params, {"x": x, "y": y}, weight=3.0)
    assert_trees_close(step.grads, tree.scale(3.0, func.grad(softplus_loss)(params, x, y)), 1e-12)
