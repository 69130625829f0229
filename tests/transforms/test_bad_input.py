"""What each public function refuses: the message names the argument and the remedy, and nothing was computed."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._pytree import register_pytree_node

from alpha_func import functional_loss, grad_and_quadratic, hvp, optimal_alpha, quadratic_along
from alpha_func.transforms import STRATEGIES
from tests.helpers.cases import MSE, mlp

ALONG = {
    "quadratic_along": lambda loss, p, d, **options: quadratic_along(loss, **options)(p, d),
    "optimal_alpha": lambda loss, p, d, **options: optimal_alpha(loss, **options)(p, d),
    "hvp": lambda loss, p, d, **options: hvp(loss, **options)(p, d),
}
VERBS = ALONG | {"grad_and_quadratic": lambda loss, p, d, **options: grad_and_quadratic(loss, **options)(p)}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


class Counted:
    """A loss that counts its calls: ½‖params‖²."""

    def __init__(self):
        self.calls = 0

    def __call__(self, params):
        self.calls += 1
        return sum((leaf * leaf).sum() for leaf in params.values()) / 2


class Unnamed:
    """A registered node whose children have no names."""

    def __init__(self, *children):
        self.children = children


register_pytree_node(Unnamed, lambda node: (list(node.children), None), lambda children, _: Unnamed(*children))


def ones(*shape, **options):
    return torch.ones(shape or (2,), **options)


def params():
    return {"w": ones(2), "b": ones(3)}


# Parameters

BAD_PARAMS = {
    "integer": ({"w": ones(dtype=torch.int64)}, TypeError, r"params\['w'\] is torch.int64.*\.to\(torch.float32\)"),
    "boolean": ({"w": ones(dtype=torch.bool)}, TypeError, r"params\['w'\] is torch.bool.*\.to\(torch.float32\)"),
    "one of many": ({"w": [ones(), (ones(dtype=torch.int8),)]}, TypeError, r"params\['w'\]\[1\]\[0\] is torch.int8"),
    "float": ({"w": 1.0}, TypeError, r"params\['w'\] is a float: every leaf must be a tensor; let the loss close over"),
    "none": ({"w": ones(), "b": None}, TypeError, r"params\['b'\] is a NoneType: every leaf must be a tensor"),
    "string": ("w", TypeError, r"params is a str: every leaf must be a tensor"),
    "module": (nn.Linear(2, 1), TypeError, r"params is a Linear: every leaf must be a tensor"),
    "generator": ((t for t in [ones()]), TypeError, r"params is a generator: every leaf must be a tensor"),
    "in an unnamed node": (Unnamed(ones(), 3), TypeError, r"params.*leaf 1.* is a int: every leaf must be a tensor"),
    "empty dict": ({}, ValueError, r"params is an empty tree: pass at least one tensor"),
    "empty containers": ([{}, ()], ValueError, r"params is an empty tree: pass at least one tensor"),
}


@every_verb
@pytest.mark.parametrize("name", BAD_PARAMS)
def test_parameters_that_are_no_tree_of_real_tensors_are_refused(name, verb):
    given, error, message = BAD_PARAMS[name]
    loss = Counted()
    with pytest.raises(error, match=message):
        verb(loss, given, given)
    assert loss.calls == 0


# Directions

BAD_DIRECTIONS = {
    "missing key": ({"w": ones(2)}, ValueError, r"must have the structure of params: it lacks \['b'\]"),
    "unknown key": (params() | {"c": ones()}, ValueError, r"must have the structure of params: it has unknown \['c'\]"),
    "misspelt key": (
        {"w": ones(2), "B": ones(3)},
        ValueError,
        r"must have the structure of params: it lacks \['b'\]; it has unknown \['B'\]",
    ),
    "list": ([ones(2), ones(3)], ValueError, r"must have the structure of params: it lacks \['b'\], \['w'\]"),
    "bare tensor": (ones(5), ValueError, r"must have the structure of params: it lacks .*has unknown a bare leaf"),
    "none": (None, ValueError, r"must have the structure of params: it lacks"),
    "deeper": (
        {"w": ones(2), "b": [ones(3)]},
        ValueError,
        r"must have the structure of params: it lacks \['b'\]; it has unknown \['b'\]\[0\]",
    ),
    "empty": ({}, ValueError, r"must have the structure of params: it lacks \['b'\], \['w'\]"),
    "shape": ({"w": ones(2), "b": ones(2)}, ValueError, r"\['b'\] has shape \(2,\): expected \(3,\), as params\['b'\]"),
    "broadcast": ({"w": ones(2), "b": ones(1)}, ValueError, r"\['b'\] has shape \(1,\): expected \(3,\)"),
    "dtype": (
        {"w": ones(2).double(), "b": ones(3)},
        TypeError,
        r"\['w'\] is torch.float64: convert it to torch.float32, as params\['w'\]",
    ),
    "integer": ({"w": ones(2).long(), "b": ones(3)}, TypeError, r"\['w'\] is torch.int64: convert it to torch.float32"),
    "device": (
        {"w": ones(2, device="meta"), "b": ones(3)},
        ValueError,
        r"\['w'\] is on meta: move it to cpu, as params\['w'\]",
    ),
    "leaf": ({"w": 1.0, "b": ones(3)}, TypeError, r"\['w'\] is a float: expected a tensor, as params\['w'\]"),
    "other order and shape": ({"b": ones(2), "w": ones(2)}, ValueError, r"\['b'\] has shape \(2,\): expected \(3,\)"),
}


@pytest.mark.parametrize("verb", ALONG.values(), ids=ALONG)
@pytest.mark.parametrize("name", BAD_DIRECTIONS)
def test_a_direction_unlike_the_parameters_is_refused(name, verb):
    given, error, message = BAD_DIRECTIONS[name]
    loss = Counted()
    with pytest.raises(error, match="^direction ?" + message):
        verb(loss, params(), given)
    assert loss.calls == 0


@every_strategy
@pytest.mark.parametrize("name", BAD_DIRECTIONS)
def test_a_direction_function_that_returns_another_tree_is_refused(name, strategy):
    given, error, message = BAD_DIRECTIONS[name]
    with pytest.raises(error, match=r"^direction\(grads\) ?" + message):
        grad_and_quadratic(Counted(), lambda grads: given, strategy=strategy)(params())


def test_containers_of_other_types_are_told_apart():
    with pytest.raises(ValueError, match="direction must have the structure of params: its containers are of other"):
        quadratic_along(lambda p: p[0].sum())([ones()], (ones(),))


def test_a_mismatch_inside_an_unnamed_node_says_which_leaf():
    with pytest.raises(ValueError, match=r"direction \(leaf 1\) has shape \(2,\): expected \(3,\)"):
        quadratic_along(lambda p: p.children[0].sum())(Unnamed(ones(2), ones(3)), Unnamed(ones(2), ones(2)))


# Losses

BAD_LOSSES = {
    "python float": (lambda p: 1.0, TypeError, r"loss must return a tensor, got float; .*\(no \.item\(\)\)"),
    "none": (lambda p: None, TypeError, r"loss must return a tensor, got NoneType"),
    "tuple": (lambda p: (p["w"].sum(), p), TypeError, r"loss must return a tensor, got tuple; return the loss alone"),
    "vector": (lambda p: p["w"], ValueError, r"loss must return a scalar .*got shape \(2,\); reduce it: .mean\(\)"),
    "one entry": (lambda p: p["w"][:1], ValueError, r"loss must return a scalar .*got shape \(1,\); reduce it"),
    "integer": (
        lambda p: p["w"].sum().long(),
        TypeError,
        r"loss must be real and floating.*int64; convert it with",
    ),
    "complex": (lambda p: p["w"].sum() * 1j, TypeError, r"loss must be real and floating.*complex64; take \.real"),
}


@every_verb
@every_strategy
@pytest.mark.parametrize("name", BAD_LOSSES)
def test_a_loss_that_is_no_real_scalar_is_refused(name, strategy, verb):
    loss, error, message = BAD_LOSSES[name]
    with pytest.raises(error, match=message):
        verb(loss, params(), params(), strategy=strategy)


NOT_CALLABLE = [None, 3.0, "mse", torch.ones(())]
TRANSFORMS = {f.__name__: f for f in (quadratic_along, optimal_alpha, hvp, grad_and_quadratic)}
every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


@every_transform
@pytest.mark.parametrize("given", NOT_CALLABLE, ids=repr)
def test_a_loss_that_cannot_be_called_is_refused_at_once(given, transform):
    with pytest.raises(TypeError, match=rf"loss must be callable as loss\(params, \*args.*got {type(given).__name__}"):
        transform(given)


@pytest.mark.parametrize("given", NOT_CALLABLE, ids=repr)
def test_a_direction_function_that_cannot_be_called_is_refused_at_once(given):
    message = rf"direction must be callable as direction\(grads\), got {type(given).__name__}"
    with pytest.raises(TypeError, match=message):
        grad_and_quadratic(Counted(), given)


# Strategies


@every_transform
def test_an_unknown_strategy_is_refused_at_once_with_the_names_there_are(transform):
    with pytest.raises(ValueError, match="strategy 'reverse' is unknown: choose from " + ", ".join(STRATEGIES)):
        transform(Counted(), strategy="reverse")


@every_transform
@pytest.mark.parametrize("given", [3, ["forward_over_reverse"]], ids=repr)
def test_a_strategy_that_cannot_be_called_is_refused_at_once(given, transform):
    with pytest.raises(TypeError, match=rf"strategy must be callable.*got {type(given).__name__}"):
        transform(Counted(), strategy=given)


# What is no error


@every_strategy
def test_a_zero_direction_has_no_alpha_and_is_no_error(strategy):
    zero = {"w": torch.zeros(2), "b": torch.zeros(3)}
    q = quadratic_along(Counted(), strategy=strategy)(params(), zero)
    assert [float(number) for number in q] == [2.5, 0.0, 0.0]
    assert math.isnan(optimal_alpha(Counted(), strategy=strategy)(params(), zero))
    assert all(not leaf.any() for leaf in hvp(Counted(), strategy=strategy)(params(), zero).values())


@every_strategy
def test_a_stationary_point_has_no_alpha_and_is_no_error(strategy):
    step = grad_and_quadratic(Counted(), strategy=strategy)({"w": torch.zeros(2)})
    assert math.isnan(step.quadratic.alpha)


@every_strategy
def test_a_linear_loss_has_an_infinite_alpha(strategy):
    def loss(params):
        return 3 * params["w"].sum()

    along = {"w": ones(2)}
    # Its sign is that of a zero, which follows the order of a sum.
    assert math.isinf(optimal_alpha(loss, strategy=strategy)(along, along))
    assert math.isinf(grad_and_quadratic(loss, strategy=strategy)(along).quadratic.alpha)


@every_strategy
def test_a_loss_that_ignores_its_parameters_has_a_flat_quadratic(strategy):
    q = quadratic_along(lambda p: torch.tensor(3.0), strategy=strategy)(params(), params())
    assert [float(number) for number in q] == [3.0, 0.0, 0.0]


@every_strategy
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_pass_through(bad, strategy):
    at, healthy = {"w": torch.tensor([bad, 1.0])}, {"w": ones(2)}

    def quartic(params):
        return (params["w"] ** 4).sum()

    def isfinite(numbers):
        return [bool(torch.isfinite(number)) for number in numbers]

    assert isfinite(quadratic_along(quartic, strategy=strategy)(at, healthy)) == [False, False, False]
    assert isfinite(quadratic_along(quartic, strategy=strategy)(healthy, at)) == [True, False, False]
    assert math.isnan(optimal_alpha(quartic, strategy=strategy)(at, healthy))
    assert not torch.isfinite(hvp(quartic, strategy=strategy)(at, healthy)["w"][0])


@every_strategy
def test_a_leaf_without_entries_is_no_error(strategy):
    with_none = {"w": ones(2), "none": torch.ones(0, 3)}
    assert [float(n) for n in quadratic_along(Counted(), strategy=strategy)(with_none, with_none)] == [1.0, 2.0, 2.0]


# functional_loss


@pytest.mark.parametrize("given", [None, torch.relu, nn.Linear, {"w": ones()}], ids=["None", "f", "class", "dict"])
def test_functional_loss_refuses_what_is_no_module(given):
    with pytest.raises(TypeError, match=rf"module must be a torch.nn.Module, got {type(given).__name__}"):
        functional_loss(given, MSE)


@pytest.mark.parametrize("given", ["mse", 3, torch.ones(())], ids=repr)
def test_functional_loss_refuses_a_criterion_that_cannot_be_called(given):
    message = rf"criterion must be callable as criterion\(outputs, targets\), got {type(given).__name__}"
    with pytest.raises(TypeError, match=message):
        functional_loss(nn.Linear(2, 1), given)


@pytest.mark.parametrize("module", [nn.ReLU(), nn.Linear(2, 1).requires_grad_(False)], ids=["none", "all frozen"])
def test_functional_loss_refuses_a_module_without_trainable_parameters(module):
    with pytest.raises(ValueError, match="module has no parameter with requires_grad=True; unfreeze at least one"):
        functional_loss(module, MSE)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_functional_loss_refuses_an_embedding_that_writes_to_its_weight(kind):
    module = nn.Sequential(kind(5, 3, max_norm=0.5), nn.Linear(3, 2))
    message = rf"module has {kind.__name__} '0' with max_norm=0.5.*set max_norm=None"
    with pytest.raises(ValueError, match=message):
        functional_loss(module, MSE)


class CountedNet(nn.Module):
    """Counts its forward calls."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = mlp([2, 1]), [0]

    def forward(self, x):
        self.calls[0] += 1
        return self.net(x)


BAD_NAMES = {
    "missing": (
        {"net.0.weight": ones(1, 2)},
        ValueError,
        r"params lacks \['net.0.bias'\]: pass a dict with the names that functional_loss",
    ),
    "unknown": (
        {"net.0.weight": ones(1, 2), "net.0.bias": ones(1), "w": ones()},
        ValueError,
        r"params has unknown \['w'\]",
    ),
    "both": (
        {"net.0.weight": ones(1, 2), "bias": ones(1)},
        ValueError,
        r"params lacks \['net.0.bias'\] and has unknown \['bias'\]",
    ),
    "list": ([ones(1, 2), ones(1)], TypeError, r"params must be the dict of name to tensor.*, got list"),
    "tensor": (ones(1, 2), TypeError, r"params must be the dict of name to tensor.*, got Tensor"),
}


@every_verb
@pytest.mark.parametrize("name", BAD_NAMES)
def test_functional_loss_refuses_other_names(name, verb):
    given, error, message = BAD_NAMES[name]
    module = CountedNet()
    loss, _ = functional_loss(module, MSE)
    with pytest.raises(error, match=message):
        verb(lambda p: loss(p, ones(4, 2), ones(4, 1)), given, given)
    assert module.calls == [0]


class Returns(nn.Module):
    """A module that returns anything."""

    def __init__(self, output):
        super().__init__()
        self.weight, self.output = nn.Parameter(ones()), output

    def forward(self):
        return self.output


@pytest.mark.parametrize(
    "output",
    [{"logits": ones()}, SimpleNamespace(logits=ones()), SimpleNamespace(loss=None), (ones(),), None, 3.0],
    ids=["dict", "object", "no labels", "tuple", "None", "float"],
)
def test_functional_loss_refuses_an_output_without_a_loss(output):
    loss, params = functional_loss(Returns(output))
    message = rf"the module's output, a {type(output).__name__}, has no loss: pass the targets.*or pass a criterion"
    with pytest.raises(TypeError, match=message):
        loss(params)


def test_a_module_that_gives_no_scalar_is_refused_by_the_transforms():
    loss, params = functional_loss(nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"loss must return a scalar \(shape \(\)\), got shape \(4, 1\); reduce it"):
        quadratic_along(loss)(params, params, ones(4, 2))
