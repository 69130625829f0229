"""How many matrix products the programs cost: deterministic, so pinned."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import tree
from alpha_func.capture.rewrites import FUSED, IN_PRIMITIVES, rewrite
from alpha_func.capture.sweeps.adjoint import adjoint_programs, steepest_descent_program
from alpha_func.capture.sweeps.span import span_program
from alpha_func.capture.sweeps.taylor import higher_program, taylor_program
from benchmarks.nets import GPT, next_token
from tests.helpers.cases import line, mlp
from tests.helpers.programs import descent, lowered_case
from tests.helpers.reference import dense, flat
from tests.helpers.whole import WHOLE

aten = torch.ops.aten
LAYER = (aten.mm.default, aten.addmm.default, aten.convolution.default)
ACTIVATIONS = (aten.bmm.default, aten.baddbmm.default)


def products(*programs):
    """(products with a weight, products of two activations)."""
    counts = Counter()
    for program in programs:
        for node in program.graph.nodes:
            if node.target is aten.convolution_backward.default:
                counts[LAYER] += sum(node.args[-1][:2])
            for kind in (LAYER, ACTIVATIONS):
                counts[kind] += node.target in kind
    return counts[LAYER], counts[ACTIVATIONS]


def deep_mlp():
    torch.manual_seed(0)
    return line(mlp([3, 4, 5, 6, 2]), nn.CrossEntropyLoss(), torch.randn(8, 3), torch.randint(2, (8,)))


def conv_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip
    return line(net, nn.CrossEntropyLoss(), torch.randn(4, 2, 6, 6), torch.randint(3, (4,)))


def transformer():
    torch.manual_seed(0)
    net = GPT(vocabulary=11, width=8, heads=2, layers=2, context=5)
    return line(net, next_token, torch.randint(11, (3, 5)), torch.randint(11, (3, 5)))


# layers: those after the first, which has an input without a tangent; the transformer's come after an embedding.
NETS = {"mlp": (deep_mlp, 3, 1, 0), "conv": (conv_net, 2, 1, 0), "transformer": (transformer, 9, 0, 4)}
# ReLU and pooling bend nothing: the second convolution's input has no second coefficient either.
SAVED = {"conv": 1}


@pytest.mark.parametrize("name", NETS)
def test_taylor_costs_five_products_a_layer_and_six_of_activations_on(name):
    make, layers, firsts, activation_products = NETS[name]
    case = make()
    program = taylor_program(lowered_case(case), len(tree.leaves(case.params)))
    for form in (program, rewrite(program, FUSED)):
        assert products(form) == (5 * layers + 2 * firsts - SAVED.get(name, 0), 6 * activation_products)


@pytest.mark.parametrize("name", NETS)
def test_the_adjoint_costs_six_products_a_layer_and_of_activations_on(name):
    make, layers, firsts, activation_products = NETS[name]
    case = make()
    lowered, n = lowered_case(case), len(tree.leaves(case.params))
    two = adjoint_programs(lowered, n)
    for programs in ((steepest_descent_program(lowered, n),), (two.gradient, two.line)):
        assert products(*programs) == (6 * layers + 3 * firsts, 6 * activation_products)


@pytest.mark.parametrize(
    ("name", "order"), [("mlp", 3), ("mlp", 4), ("transformer", 3), pytest.param("transformer", 4, marks=WHOLE)]
)
def test_taylor_of_order_k_costs_2k_plus_one_products_a_layer_on(name, order):
    make, layers, firsts, activation_products = NETS[name]
    case = make()
    program = higher_program(rewrite(lowered_case(case), IN_PRIMITIVES), len(tree.leaves(case.params)), order)
    pairs = (order + 1) * (order + 2) // 2
    for form in (program, rewrite(program, FUSED)):
        assert products(form) == ((2 * order + 1) * layers + 2 * firsts, pairs * activation_products)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("mlp", 1), ("mlp", 2), ("mlp", 4), ("conv", 2)),
        *(pytest.param("transformer", count, marks=WHOLE) for count in (2, 4)),  # seconds to write
    ],
)
def test_a_span_of_k_costs_2_plus_3k_products_a_layer_on(name, count):
    make, layers, firsts, activation_products = NETS[name]
    case = make()
    n = len(tree.leaves(case.params))
    program = span_program(rewrite(lowered_case(case), IN_PRIMITIVES), n, count)
    expected = (
        (2 + 3 * count) * layers + (1 + count) * firsts - SAVED.get(name, 0),
        (3 + 3 * count) * activation_products,
    )
    for form in (program, rewrite(program, FUSED)):
        assert products(form) == expected
    if name != "conv":  # whose sweep saves one more, for its ReLU bends nothing
        sweep = products(taylor_program(lowered_case(case), n))
        assert sum(expected) <= {1: 1, 2: 1.6, 4: 3}[count] * sum(sweep)


def test_the_gradient_program_costs_three_products_a_layer():
    case = deep_mlp()
    assert products(adjoint_programs(lowered_case(case), 8).gradient) == (3 * 3 + 2, 0)


@pytest.mark.parametrize("block", [F.relu, torch.tanh])
def test_a_stopped_gradient_stays_stopped(block):
    torch.manual_seed(0)

    class Stopped(nn.Linear):
        def forward(self, x):
            y = block(super().forward(x))
            return y * y.detach()

    case = line(Stopped(3, 2), nn.MSELoss(), torch.randn(4, 3), torch.randn(4, 2))
    _, directions, _ = descent(lowered_case(case), case)
    truth = dense(case.loss, case.params, *case.args)
    assert (flat(directions) + truth.gradient).norm() <= 1e-12 * truth.gradient.norm()
