"""Derivatives of higher order, spans and Gauss-Newton curvatures on every model and loss of the models' table.

Against other routes: the curvature differentiated along the line, polarised quadratics, double backward by group, and
for Gauss and Newton's the module's outputs and the criterion differentiated in plain loops.
"""

from typing import NamedTuple

import pytest
import torch

from alpha_func import Quadratic, capture, quadratic_along, tree
from alpha_func.capture.captured import CapturedLoss
from alpha_func.errors import CaptureError, StrategyError
from alpha_func.losses.parting import parted
from alpha_func.transforms import lr_and_momentum, quadratic_by_group, quadratic_in_span, taylor_along
from tests.helpers.cases import Case
from tests.helpers.models import LOSSES, MODELS, with_loss
from tests.helpers.reference import assert_close, extrapolated
from tests.helpers.whole import a_few_of

CASES = {**MODELS, **{name: lambda name=name: with_loss(name) for name in LOSSES}}
REFUSED = (CaptureError, StrategyError, NotImplementedError)


class Known(NamedTuple):
    """A case of the table, its loss captured, and the quadratic of that."""

    case: Case
    loss: CapturedLoss
    quadratic: Quadratic


@pytest.fixture(scope="module", params=a_few_of(CASES, ["MLP, Softplus", "BatchNorm, train", "kl_div"]))
def known(request):
    """Captured once for all that is asked of it; a model whose quadratic is refused has nothing beyond it."""
    case = CASES[request.param]()
    loss = capture(case.loss, strict=True)
    try:
        return Known(case, loss, quadratic_along(loss)(case.params, case.direction, *case.args))
    except REFUSED as error:
        pytest.skip(f"refused: {error}")


def test_the_third_derivative_is_the_curvature_differentiated_on(known):
    case, loss, quadratic = known
    program = loss.program(case.params, *case.args).graph
    if program.graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        pytest.skip("differences see what derivatives hold constant")
    found = taylor_along(loss)(case.params, case.direction, *case.args)
    line, unit = quadratic_along(loss), 1 / float(tree.norm(case.direction))

    def curvature(alpha):
        return line(tree.axpy(alpha, case.direction, case.params), case.direction, *case.args).curvature

    def estimates(reach):
        steps = [unit * reach / 2**k for k in range(4)]
        return extrapolated([(curvature(s) - curvature(-s)) / (2 * s) for s in steps], 2)

    expected, nearer = estimates(1e-3), estimates(3e-4)
    scale = max(abs(expected), *(abs(x) / unit**k for k, x in enumerate((quadratic.curvature, quadratic.slope), 1)))
    if not abs(nearer - expected) <= 1e-7 * scale:
        pytest.skip("a kink within reach of the differences")
    assert_close(found.quadratic.curvature, quadratic.curvature, 1e-9, scale * unit)
    assert_close(found.higher[0], expected, 1e-7, scale)


def test_a_span_is_made_of_quadratics_on(known):
    case, loss, quadratic = known
    d, e = case.direction, tree.randn_like(case.params, generator=torch.Generator().manual_seed(1))
    got = quadratic_in_span(loss)(case.params, [d, e], *case.args)
    along = quadratic_along(loss)  # which ``tests/losses/test_models.py`` compares with dense Hessians
    one, two, both = (along(case.params, x, *case.args) for x in (d, e, tree.add(d, e)))
    scale = one.curvature.abs() + two.curvature.abs() + both.curvature.abs()
    cross = (both.curvature - one.curvature - two.curvature) / 2
    expected = torch.stack([torch.stack([one.curvature, cross]), torch.stack([cross, two.curvature])])
    assert ((got.curvature - expected).abs() <= 1e-9 * scale).all(), (got.curvature, expected)
    assert_close(got.curvature[0, 0], quadratic.curvature, 1e-9, scale)
    best = lr_and_momentum(loss)(case.params, d, e, *case.args)
    torch.testing.assert_close(torch.stack([best.lr, best.momentum]), got.minimizer(), rtol=0, atol=0, equal_nan=True)


def test_the_parts_of_a_quadratic_are_by_double_backward_those_on(known):
    case, loss, quadratic = known
    got = quadratic_by_group(loss, ["*"], interactions=True)(case.params, case.direction, *case.args)
    parts = quadratic_by_group(loss)(case.params, case.direction, *case.args)
    scale = quadratic.curvature.abs() + sum(part.abs() for part in parts.curvatures.values())
    reach = sum(part.abs() for part in parts.slopes.values())
    for found in (got, parts):
        assert_close(found.quadratic.curvature, quadratic.curvature, 1e-9, scale)
        assert_close(found.quadratic.slope, quadratic.slope, 1e-9, reach)
    try:
        products = quadratic_by_group(case.loss)(case.params, case.direction, *case.args)
    except REFUSED as error:
        pytest.skip(f"refused plainly: {error}")
    for group, curvature in products.curvatures.items():
        assert_close(parts.curvatures[group], curvature, 1e-9, scale)
        assert_close(parts.slopes[group], products.slopes[group], 1e-9, reach)


def by_loops(case):
    """dᵀGd: a row of J for each output, and the criterion's gradient differentiated, by autograd alone."""
    told = parted(case.loss, "gauss_newton")
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in case.params.items()}
    inputs, targets = case.args
    z = told.outputs(leaves, inputs)
    given, d = list(leaves.values()), list(case.direction.values())
    rows = (torch.autograd.grad(entry, given, retain_graph=True, materialize_grads=True) for entry in z.reshape(-1))
    t = torch.stack([tree.vdot(list(row), d) for row in rows]).view_as(z)

    def slope(at):
        return (torch.autograd.grad(told.criterion(at, targets), at, create_graph=True)[0] * t).sum()

    at = z.detach().requires_grad_()
    bent = slope(at)
    try:
        return (t * torch.autograd.grad(bent, at, materialize_grads=True)[0]).sum() if bent.requires_grad else 0 * bent
    except RuntimeError:  # a margin's, which PyTorch differentiates once, is linear but for kinks
        return ((slope(at + 1e-6 * t) - slope(at - 1e-6 * t)) / 2e-6).detach()


def test_gauss_newton_is_that_of_plain_loops_on(known, request):
    case, loss, _ = known
    try:
        expected = by_loops(case)
    except ValueError:
        pytest.skip("the loss does not tell module and criterion apart")
    try:
        got = quadratic_along(loss, curvature="gauss_newton")(case.params, case.direction, *case.args)
    except CaptureError as error:  # a margin's: nothing to prove it by
        pytest.skip(f"refused: {error}")
    tol = 1e-7 if "Hardsigmoid" in request.node.name else 1e-9  # whose kernel has its constants in float32
    assert_close(got.curvature, expected, tol)
    try:
        plain = quadratic_along(case.loss, curvature="gauss_newton")(case.params, case.direction, *case.args)
    except REFUSED as error:
        pytest.skip(f"refused plainly: {error}")
    torch.testing.assert_close(got, plain, rtol=tol, atol=1e-12)
