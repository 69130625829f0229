"""``from_optimizer``: every torch.optim optimizer's own step, as pure functions."""

import copy
import inspect
import math

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap
from torch.optim.optimizer import register_optimizer_step_post_hook

from alpha_func import (
    capture,
    from_optimizer,
    functional_loss,
    grad_and_quadratic,
    optimal_alpha,
    quadratic_along,
    tree,
)
from alpha_func.optimizers import anatomy, from_live_optimizer
from alpha_func.optimizers.pure import PROPORTIONAL
from tests.helpers.reference import dense, flat

STEPS = 50
OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
REFUSED = {"LBFGS", "SparseAdam"}
CASES = [
    *((name, {}) for name in OPTIMIZERS if name not in REFUSED),
    *((name, {"weight_decay": 0.1}) for name in OPTIMIZERS if name not in REFUSED | {"Rprop"}),
    *((name, {"foreach": True, "maximize": True}) for name in OPTIMIZERS if name not in REFUSED | {"Muon"}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "fused": True}),
    ("SGD", {"lr": torch.tensor(0.1), "momentum": 0.9}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1, "betas": (0.5, 0.7)}),
    ("Adam", {"fused": True, "amsgrad": True}),
    ("Adam", {"lr": torch.tensor(0.01)}),
    ("Adam", {"differentiable": True}),
    ("AdamW", {"fused": True, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("Adagrad", {"fused": True}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("ASGD", {"t0": 5, "lambd": 0.1}),
    ("Muon", {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}),
]
IDS = [f"{name} {options}" for name, options in CASES]


def matrices(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shapes = {"0.weight": (5, 4), "2.weight": (3, 5)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def gradients(params, seed, n):
    generator = torch.Generator().manual_seed(seed)
    return [tree.map(lambda leaf: torch.randn(leaf.shape, generator=generator).to(leaf.dtype), params)] + (
        gradients(params, seed + 1, n - 1) if n > 1 else []
    )


def live(kind, params, **options):
    graph = not options.get("differentiable")  # PyTorch steps no leaf that requires grad differentiably
    parameters = {name: nn.Parameter(leaf.clone(), requires_grad=graph) for name, leaf in params.items()}
    return kind(list(parameters.values()), **options), parameters


def take(optimizer, parameters, grads):
    for name, parameter in parameters.items():
        parameter.grad = grads[name].clone()
    optimizer.step()


def identical(x, y):
    assert x.keys() == y.keys()
    for name in x:
        torch.testing.assert_close(x[name], y[name].detach(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_fifty_steps_are_the_optimizers_own_bit_for_bit(name, options, dtype):
    if name == "SGD" and options.get("fused") and dtype in (torch.bfloat16, torch.float16):
        pytest.skip("PyTorch's own step is not a function there: it reads unwritten memory (pytorch#191763)")
    params = matrices(dtype)
    direction = from_optimizer(OPTIMIZERS[name], **options)
    optimizer, parameters = live(OPTIMIZERS[name], params, **options)
    state = direction.init(params)
    for grads in gradients(params, 0, STEPS):
        before = params
        d, params, state = direction.step(grads, state, params)
        take(optimizer, parameters, grads)
        identical(params, parameters)
        identical(d, {leaf: parameters[leaf].detach() - before[leaf] for leaf in d})
        for leaf, parameter in parameters.items():
            identical(state[leaf], dict(optimizer.state[parameter]))
    assert not all(torch.equal(params[leaf], matrices(dtype)[leaf]) for leaf in params), "no step was taken"


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_live_optimizers_next_step_is_foreseen_and_it_is_not_changed(name, options):
    params = matrices()
    optimizer, parameters = live(OPTIMIZERS[name], params, **options)
    for grads in gradients(params, 1, 4):
        direction, state = from_live_optimizer(optimizer, parameters)
        kept = copy.deepcopy(optimizer.state_dict())
        before = {leaf: parameter.detach().clone() for leaf, parameter in parameters.items()}
        step = direction.step(grads, state, parameters)
        identical(before, parameters)
        assert str(kept) == str(optimizer.state_dict())
        take(optimizer, parameters, grads)
        identical(step.params, parameters)


def test_update_changes_nothing_that_it_is_given():
    params, (grads,) = matrices(), gradients(matrices(), 0, 1)
    for name in OPTIMIZERS.keys() - REFUSED:
        init, update = from_optimizer(OPTIMIZERS[name])
        _, state = update(grads, init(params), params)
        given = copy.deepcopy((grads, state, params))
        first, again = update(grads, state, params), update(grads, state, params)
        assert str(given) == str((grads, state, params)), name
        assert str(first) == str(again), name


def test_no_hook_runs():
    ran = []
    handle = register_optimizer_step_post_hook(lambda *_: ran.append("global"))
    try:
        params, (grads,) = matrices(), gradients(matrices(), 0, 1)
        optimizer, parameters = live(torch.optim.Adam, params)
        optimizer.register_step_pre_hook(lambda *_: ran.append("own"))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        direction, state = from_live_optimizer(optimizer, parameters)
        direction.update(grads, state, params)
        assert ran == []
        take(optimizer, parameters, grads)
        assert ran == ["own", "global"]
        scheduler.step()
        assert from_live_optimizer(optimizer, parameters)[0].learning_rate == 0.5e-3
    finally:
        handle.remove()


def test_groups_have_options_and_optimizers_of_their_own():
    params = {**matrices(), "0.bias": torch.ones(5), "2.bias": torch.ones(3)}
    direction = from_optimizer(
        torch.optim.Muon,
        lr=0.02,
        groups={"2.bias": {"optimizer": torch.optim.SGD, "lr": 0.3}, "*.bias": {"optimizer": torch.optim.AdamW}},
    )
    parameters = {name: nn.Parameter(leaf.clone()) for name, leaf in params.items()}
    optimizers = [
        torch.optim.Muon([parameters["0.weight"], parameters["2.weight"]], lr=0.02),
        torch.optim.SGD([parameters["2.bias"]], lr=0.3),
        torch.optim.AdamW([parameters["0.bias"]]),
    ]
    state = direction.init(params)
    for grads in gradients(params, 0, 5):
        foreseen, foreseen_state = from_live_optimizer(optimizers, parameters)
        step = foreseen.step(grads, foreseen_state, parameters)
        _, params, state = direction.step(grads, state, params)
        for name, parameter in parameters.items():
            parameter.grad = grads[name].clone()
        for optimizer in optimizers:
            optimizer.step()
        identical(params, parameters)
        identical(step.params, parameters)


def test_options_of_a_group_stand_beside_the_shared_ones():
    params = {**matrices(), "0.bias": torch.ones(5)}
    direction = from_optimizer(torch.optim.AdamW, lr=0.1, weight_decay=0.5, groups={"*.bias": {"weight_decay": 0.0}})
    parameters = {name: nn.Parameter(leaf.clone()) for name, leaf in params.items()}
    weights = [parameters["0.weight"], parameters["2.weight"]]
    optimizer = torch.optim.AdamW(
        [{"params": weights}, {"params": [parameters["0.bias"]], "weight_decay": 0.0}], lr=0.1, weight_decay=0.5
    )
    (grads,) = gradients(params, 0, 1)
    _, params, _ = direction.step(grads, direction.init(params), params)
    take(optimizer, parameters, grads)
    identical(params, parameters)


@pytest.mark.parametrize("container", [list, tuple, lambda leaves: {"a": leaves}, lambda leaves: leaves[0]])
def test_any_pytree_of_parameters_is_stepped(container):
    (x, y), (g, h) = matrices().values(), gradients(matrices(), 0, 1)[0].values()
    params, grads = container([x, y]), container([g, h])
    direction = from_optimizer(torch.optim.Adam, lr=0.1)
    d, state = direction.update(grads, direction.init(params), params)
    assert tree.structure(d) == tree.structure(params)
    assert len(state) == len(tree.leaves(params))
    torch.testing.assert_close(tree.leaves(d)[0], -0.1 * g.sign(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon"])
def test_alpha_along_an_optimizers_step_is_that_of_a_dense_hessian(name, captured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 1, bias=False)).double()
    loss, params = functional_loss(model, nn.MSELoss())
    inputs, targets = torch.randn(8, 4).double(), torch.randn(8, 1).double()
    direction = from_optimizer(OPTIMIZERS[name], lr=0.1, weight_decay=0.1)
    _, params, state = direction.step(grad(loss)(params, inputs, targets), direction.init(params), params)
    step = grad_and_quadratic(
        capture(loss) if captured else loss, lambda grads: direction.update(grads, state, params)[0]
    )
    grads, d, quadratic = step(params, inputs, targets)
    expected = dense(loss, params, inputs, targets).quadratic_along(flat(d))
    assert quadratic.alpha.item() == pytest.approx(expected.alpha.item(), rel=1e-11)
    found = anatomy(direction, d, quadratic, grads, state, params)
    assert found.alpha_lr.item() == pytest.approx(0.1 * expected.alpha.item(), rel=1e-11)
    g = flat(grads)
    assert found.cosine.item() == pytest.approx(-(flat(d) @ g / flat(d).norm() / g.norm()).item(), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in REFUSED | {"Rprop"}])
def test_the_share_of_weight_decay_is_that_of_an_optimizer_without_it(name):
    params, (first, grads) = matrices(torch.float64), gradients(matrices(torch.float64), 0, 2)
    direction, plain = (from_optimizer(OPTIMIZERS[name], lr=0.1, weight_decay=decay) for decay in (0.3, 0.0))
    _, params, state = direction.step(first, direction.init(params), params)
    quadratic = quadratic_along(lambda p: tree.vdot(p, p))(params, params)
    d, _ = direction.update(grads, state, params)
    d0, _ = plain.update(grads, state, params)
    share = anatomy(direction, d, quadratic, grads, state, params).weight_decay_share.item()
    assert share == pytest.approx(1 - (tree.vdot(d0, grads) / tree.vdot(d, grads)).item(), rel=1e-9)
    assert share != 0
    if name in ("AdamW", "Muon"):  # decoupled: d − d₀ = −lr·weight_decay·θ
        expected = -0.1 * 0.3 * (tree.vdot(params, grads) / tree.vdot(d, grads)).item()
        assert share == pytest.approx(expected, rel=1e-9)
    assert anatomy(plain, d0, quadratic, grads, state, params).weight_decay_share == 0


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in REFUSED])
def test_alpha_times_lr_is_given_only_where_steps_are_proportional_to_lr(name):
    params, grads = matrices(torch.float64), gradients(matrices(torch.float64), 0, 4)
    once, twice = (from_optimizer(OPTIMIZERS[name], lr=lr) for lr in (0.8, 1.6))  # Adafactor: 1/√t below both
    state = once.init(params)
    for g in grads[:3]:
        _, params, state = once.step(g, state, params)
    d, doubled = (direction.update(grads[3], state, params)[0] for direction in (once, twice))
    proportional = torch.allclose(flat(doubled), 2 * flat(d), rtol=1e-9, atol=1e-15)
    assert proportional == (OPTIMIZERS[name] in PROPORTIONAL)
    assert once.learning_rate == 0.8 if proportional else math.isnan(once.learning_rate)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in REFUSED])
def test_vmap_over_gradients_and_states_takes_each_step_as_alone(name):
    params = matrices()
    batch = gradients(params, 0, 3)
    stacked = tree.map(lambda *leaves: torch.stack(leaves), *batch)
    direction = from_optimizer(OPTIMIZERS[name])

    def two_steps(grads):
        _, after, state = direction.step(grads, direction.init(params), params)
        return direction.step(grads, state, after)

    together = vmap(two_steps)(stacked)
    for i, grads in enumerate(batch):
        identical(tree.map(lambda leaf, i=i: leaf[i], together.params), two_steps(grads).params)


def squares(params):
    return sum((leaf**4).sum() for leaf in params.values())


def test_a_derivative_through_a_step_needs_a_differentiable_one():
    params, (grads,) = matrices(), gradients(matrices(), 0, 1)
    direction = from_optimizer(torch.optim.Adam)
    state = direction.init(params)

    def alpha(params):
        d, _ = direction.update(grad(squares)(params), state, params)
        return optimal_alpha(squares)(params, d)

    with pytest.raises(NotImplementedError, match="differentiable=True"):
        grad(alpha)(params)
    with pytest.raises(NotImplementedError, match="differentiable=True"):
        jvp(alpha, (params,), (grads,))


@pytest.mark.parametrize(("name", "options"), [("SGD", {"momentum": 0.9}), ("Adam", {}), ("RMSprop", {})])
def test_a_differentiable_steps_derivative_agrees_with_differences(name, options):
    params, (first, grads, tangent) = matrices(torch.float64), gradients(matrices(torch.float64), 0, 3)
    direction = from_optimizer(OPTIMIZERS[name], lr=0.1, differentiable=True, **options)
    _, params, state = direction.step(first, direction.init(params), params)

    def moved(grads):
        d, _ = direction.update(grads, state, params)
        return tree.vdot(d, d)

    slope = tree.vdot(grad(moved)(grads), tangent).item()
    h = 1e-5
    ahead, behind = (moved(tree.axpy(sign * h, tangent, grads)).item() for sign in (1, -1))
    assert slope == pytest.approx((ahead - behind) / (2 * h), rel=1e-7)


class Counting(torch.optim.SGD):
    """Remembers something outside its state."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        super().step(closure)


REFUSALS = {
    "LBFGS": (lambda: from_optimizer(torch.optim.LBFGS), ValueError, "closure"),
    "SparseAdam": (lambda: from_optimizer(torch.optim.SparseAdam), ValueError, "sparse.*torch.optim.Adam"),
    "an instance": (lambda: from_optimizer(live(torch.optim.SGD, matrices())[0]), TypeError, "from_live_optimizer"),
    "no optimizer": (lambda: from_optimizer(nn.Linear), TypeError, "torch.optim class"),
    "unknown option": (lambda: from_optimizer(torch.optim.SGD, betas=(0, 0)), TypeError, "betas"),
    "bad value": (lambda: from_optimizer(torch.optim.Adam, lr=-1.0), ValueError, "Invalid learning rate"),
    "bad value in a group": (
        lambda: from_optimizer(torch.optim.Adam, groups={"*": {"eps": -1.0}}),
        ValueError,
        "Invalid epsilon",
    ),
    "group of no dict": (lambda: from_optimizer(torch.optim.Adam, groups={"*": 0.1}), TypeError, r"groups\['\*'\]"),
    "pattern without a leaf": (
        lambda: from_optimizer(torch.optim.SGD, groups={"*.bais": {}}).init(matrices()),
        ValueError,
        "'\\*.bais' matches no leaf.*0.weight",
    ),
    "Muon on a vector": (
        lambda: from_optimizer(torch.optim.Muon).init({"b": torch.ones(2)}),
        ValueError,
        r"'b' has shape \(2,\).*torch.optim.AdamW",
    ),
    "gradients of another shape": (
        lambda: from_optimizer(torch.optim.SGD).update({"w": torch.ones(3)}, {"w": {}}, {"w": torch.ones(2)}),
        ValueError,
        r"grads\['w'\] has shape \(3,\): expected \(2,\)",
    ),
    "a state of other parameters": (
        lambda: from_optimizer(torch.optim.SGD).update({"w": torch.ones(2)}, {"v": {}}, {"w": torch.ones(2)}),
        ValueError,
        "state lacks .'w'. and has unknown .'v'.",
    ),
    "no state": (
        lambda: from_optimizer(torch.optim.SGD).update({"w": torch.ones(2)}, None, {"w": torch.ones(2)}),
        TypeError,
        "init",
    ),
    "a memory outside the state": (
        lambda: from_optimizer(Counting).update({"w": torch.ones(2)}, {"w": {}}, {"w": torch.ones(2)}),
        ValueError,
        "Counting writes to count",
    ),
    "two leaves of one name": (
        lambda: from_optimizer(torch.optim.SGD).init({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}),
        ValueError,
        "two leaves named 'a.b'",
    ),
    "a parameter of no optimizer": (
        lambda: from_live_optimizer(live(torch.optim.SGD, matrices())[0], {"w": torch.ones(2)}),
        ValueError,
        "not among the parameters",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_a_direction_is_refused_with_the_reason(name):
    call, kind, message = REFUSALS[name]
    with pytest.raises(kind, match=message):
        call()
