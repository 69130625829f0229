"""What a pair of directions costs, and the second derivatives that are a weight of squares."""

from collections import Counter

import torch
from torch import nn

from alpha_func import capture, tree
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.capture.rewrites import FUSED, IN_PRIMITIVES, rewrite
from alpha_func.capture.sweeps.span import span_program
from alpha_func.transforms import quadratic_in_span
from tests.helpers.cases import mse_net
from tests.helpers.operands import is_of_two
from tests.helpers.programs import lowered_case
from tests.helpers.reference import dense, flat

aten = torch.ops.aten
DIAGONAL = {operator: rule.case for operator, rule in RULES.items() if rule.diagonal}
CASES = [lambda x: x * x, lambda x: x**2, *(case for case in DIAGONAL.values() if not is_of_two(case))]


def test_weights_of_squares_are_the_second_derivatives():
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    c = torch.linspace(0.5, 2, 6, dtype=torch.float64).reshape(2, 3)

    def loss(params):
        return sum((case(p) * c).sum() for case, p in zip(CASES, params, strict=True))

    params = [x + 0.01 * i for i in range(len(CASES))]
    generator = torch.Generator().manual_seed(0)
    directions = [tree.randn_like(params, generator=generator) for _ in range(2)]
    got = quadratic_in_span(capture(loss, strict=True))(params, directions)
    D = torch.stack([flat(d) for d in directions])
    torch.testing.assert_close(got.curvature, D @ dense(loss, params).hessian @ D.T, rtol=1e-12, atol=0)


def test_a_pair_of_directions_costs_an_inner_product_a_layer():
    case = mse_net(activation=nn.Tanh)
    lowered = rewrite(lowered_case(case), IN_PRIMITIVES)

    def calls(count):
        program = rewrite(span_program(lowered, len(tree.leaves(case.params)), count), FUSED)
        return Counter(node.target for node in program.graph.nodes if node.op == "call_function")

    one, two, three = map(calls, (1, 2, 3))
    of_pairs = {target: three[target] - 2 * two[target] + one[target] for target in three}
    assert {target for target, more in of_pairs.items() if more} == {aten.dot.default, aten.add.Tensor}
