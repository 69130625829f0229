"""The case of every rule, and what is composed of several, through the sweeps, on operands of every kind.

Many cases are one loss, as a capture takes longer than they do. A run takes a thirteenth of the cases of one operand
with each kind, a seventh of those of two with each pair; ``pytest -m whole`` takes the rest.
"""

import numpy
import pytest
import torch
from torch.nn import functional as F

from alpha_func import capture, grad_and_quadratic, hvp, quadratic_along, tree
from alpha_func.capture.derivatives.rule import RULES
from tests.helpers.operands import KINDS, PAIRS, is_of_two, loss_of, parameters, restrided
from tests.helpers.reference import flat
from tests.helpers.whole import a_third_of

ONE = {
    **{name: getattr(F, name) for name in ("softplus", "celu", "logsigmoid", "hardswish")},
    "square": torch.square,
    "self_product": lambda x: x * x,
    "affine": lambda x: 2 - x * 3,
    "sum_kept": lambda x: x.sum(0, keepdim=True),
    "flatten": lambda x: x.flatten(),
    "zero_pad": lambda x: F.pad(x.reshape(-1), (1, 2)),
    "constant_pad": lambda x: F.pad(x.reshape(-1), (1, 2), value=1.5),
    "replicated": lambda x: F.pad(x.reshape(1, 1, 1, 1, -1), (1, 1, 1, 1, 1, 1), mode="replicate"),
    "folded": lambda x: F.fold(x.reshape(1, -1, 1).expand(-1, -1, 9), (3, 3), 1),
    "affine_grid": lambda x: F.affine_grid(x.reshape(-1)[:1].expand(6).reshape(1, 2, 3), (1, 1, 2, 2), False),
    "where": lambda x: torch.where(x > 0.1, x.sin(), 3.0),
    "group_norm": lambda x: F.group_norm(x.reshape(1, -1, 1), 1) if x.numel() > 1 else x,
    "linear": lambda x: F.linear(x.reshape(1, -1), torch.ones(2, x.numel(), dtype=x.dtype)),
    "gram": lambda x: (x.mT @ x) if x.ndim > 1 else x * x,
    "huber": lambda x: F.huber_loss(x, torch.ones_like(x) * 8 / 7, reduction="none"),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, x.detach(), beta=0.5),
}
TWO = {
    "divided": lambda x, y: y / (x * x + 1),
    "product_of_sums": lambda x, y: (x + y) * (x - y),
    "lerp": lambda x, y: torch.lerp(x, torch.zeros_like(x) + y, 0.3),
    "hypot": lambda x, y: torch.hypot(x + 2, torch.as_tensor(y, dtype=x.dtype)),
    "atan2": lambda x, y: torch.atan2(x, torch.as_tensor(y, dtype=x.dtype) ** 2 + 1),
    "maximum": lambda x, y: torch.maximum(x, torch.as_tensor(y, dtype=x.dtype)),
    "fmax": lambda x, y: torch.fmax(x, torch.as_tensor(y, dtype=x.dtype)),
    "fmin": lambda x, y: torch.fmin(x, torch.as_tensor(y, dtype=x.dtype)),
    "clamp": lambda x, y: torch.clamp(x, min=torch.as_tensor(y, dtype=x.dtype)),
    "matmul": lambda x, y: x.reshape(-1, 1) @ torch.as_tensor(y, dtype=x.dtype).reshape(1, -1),
    "dot": lambda x, y: torch.outer(x.reshape(-1), torch.as_tensor(y, dtype=x.dtype).reshape(-1)).sum(0),
    "added_product": lambda x, y: x + torch.ones(2, 2, dtype=x.dtype) @ (y + torch.zeros(2, 3, dtype=x.dtype)),
    "mse": lambda x, y: F.mse_loss(*torch.broadcast_tensors(x, torch.as_tensor(y, dtype=x.dtype)), reduction="sum"),
    "cosine": lambda x, y: F.cosine_similarity(x + 2, torch.as_tensor(y, dtype=x.dtype) + 3, dim=-1),
}
OF_ONE, OF_TWO = (
    {str(rule.case): rule.case for rule in RULES.values() if is_of_two(rule.case) is of_two} | composed
    for of_two, composed in ((False, ONE), (True, TWO))
)

# name: (as it is written, the same without what has no derivative at 0).
NODES, WEIGHTS = (torch.from_numpy(v) for v in numpy.polynomial.legendre.leggauss(40))
SMOOTH = {
    "absolute": (lambda x: x.abs() ** 2, lambda x: x * x),
    "absolute_products": (lambda x: (2 * x.abs()) * (2 * x.abs()), lambda x: 4 * x * x),
    "fourth_powers": (lambda x: x.reshape(1, -1).norm(dim=1) ** 4, lambda x: (x * x).sum() ** 2),
    "norms": (lambda x: (3 * torch.linalg.vector_norm(x)[None]).square(), lambda x: 9 * (x * x).sum()),
    "kernels": (lambda x: torch.exp(-((x - x.detach()).norm() ** 2)), lambda x: (-((x - x.detach()) ** 2).sum()).exp()),
    "distances": (lambda x: torch.dist(x, x * 0 + 1) ** 2, lambda x: (x - 1).square().sum()),
    "hypotenuses": (lambda x: torch.hypot(x, x * 2) ** 2, lambda x: 5 * x * x),
    "deviations": (lambda x: x.flatten().std(correction=0) ** 2, lambda x: x.flatten().var(correction=0)),
    "roots": (lambda x: (x * x).sum().sqrt() ** 2, lambda x: (x * x).sum()),
    "complex_magnitudes": (lambda x: (x * (1 - 2j)).conj().abs() ** 2, lambda x: 5 * x * x),
    "complex_norms": (lambda x: torch.complex(x, 0 * x).norm() ** 2, lambda x: (x * x).sum()),
    "truncated_squares": (lambda x: x.abs().clamp(max=1.0) ** 2, lambda x: (x * x).clamp(max=1.0)),
    "pooled_norms": (
        lambda x: F.lp_pool1d(x.reshape(1, -1), 2, 1) ** 2,
        lambda x: (x * x).reshape(1, -1),
    ),
    "powers_of_powers": (lambda x: (x * x).sum() ** 0.5 * (x * x).sum() ** 0.5, lambda x: (x * x).sum()),
    "powers_of_magnitudes": (lambda x: (x.abs() ** 1.0).square(), lambda x: x * x),
    "distances_of_squares_from_zero": (
        lambda x: F.l1_loss(x * x / 2, torch.zeros_like(x), reduction="none") + (x * x - 0).abs(),
        lambda x: 1.5 * x * x,
    ),
    "squared_distances_of_magnitudes_from_zero": (
        lambda x: F.mse_loss(x.abs(), torch.zeros_like(x), reduction="none"),
        lambda x: x * x,
    ),
    "magnitudes_of_losses": (
        lambda x: F.huber_loss(x, x.detach(), reduction="none").abs(),
        lambda x: (x - x.detach()) ** 2 / 2,
    ),
    "quotients_of_magnitudes": (
        lambda x: (x.abs() / (1 + x.detach() ** 2)) ** 2,
        lambda x: (x / (1 + x.detach() ** 2)) ** 2,
    ),
    "sums_of_one_magnitude": (lambda x: x.abs().unsqueeze(-1).mean(-1) ** 2, lambda x: x * x),
    "magnitudes_of_squares": (lambda x: (x * x).abs() + (x * x).relu(), lambda x: 2 * x * x),
    "chosen_magnitudes": (
        lambda x: torch.where(x.detach() > 0.9, 3 * x, x.abs()) ** 2,
        lambda x: torch.where(x.detach() > 0.9, 9, 1) * x * x,
    ),
    "even_functions": (lambda x: x.abs().cos() + x.abs().cosh(), lambda x: x.cos() + x.cosh()),
    "exponents": (lambda x: x.exp() ** x, lambda x: (x * x).exp()),
    "signs": (lambda x: torch.copysign(x, x.detach()) ** 2, lambda x: x * x),
    "sinc": (torch.sinc, lambda x: ((x[..., None] * (NODES + 1) * (torch.pi / 2)).cos() * WEIGHTS).sum(-1) / 2),
}


def off(loss, expected):
    """What is off beside double backward of ``expected``, at a later call with other strides too."""
    params = parameters()
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(1))
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    value = expected(leaves)
    grads = torch.autograd.grad(value, [*leaves.values()], create_graph=True, materialize_grads=True)
    slope = flat(d) @ flat(dict(zip(d, grads, strict=True)))
    hd = flat(dict(zip(d, torch.autograd.grad(slope, [*leaves.values()], materialize_grads=True), strict=True)))
    expected_of = {"gradient": flat(dict(zip(d, grads, strict=True))), "Hd": hd}
    curvature = flat(d) @ hd
    captured = capture(loss)
    step = grad_and_quadratic(captured, lambda grads: d)(params)
    for way, q in (
        ("taylor", quadratic_along(captured)(params, d)),
        ("taylor in other strides", quadratic_along(captured)(restrided(params), d)),
        ("adjoint", step.quadratic),
    ):
        for what, got, want in zip(("value", "slope", "curvature"), q, (value, slope, curvature), strict=True):
            if not abs(got - want) <= 1e-10 * (1 + abs(want)):
                yield f"{what} by {way}: {got:.12g} for {want:.12g}"
    for what, got in (("gradient", flat(step.grads)), ("Hd", flat(hvp(captured)(params, d)))):
        want = expected_of[what]
        if not (got - want).norm() <= 1e-10 * (1 + want.norm()):
            yield f"{what}: {got} for {want}"


def of_each(function, expected, operands):
    """What is off over all operands at once, and then for which of them."""
    found = [*off(loss_of(function, operands), loss_of(expected, operands))]
    for kind, x in operands.items() if found else ():
        found += [f"{kind}: {what}" for what in off(loss_of(function, {kind: x}), loss_of(expected, {kind: x}))]
    return found


@pytest.mark.parametrize(("kind", "part"), a_third_of(KINDS, range(13), every=13))
def test_sweeps_are_exact_on_an_operand_of_kind(kind, part):
    operands = {name: lambda p, name=name: OF_ONE[name](KINDS[kind](p)) for name in [*OF_ONE][part::13]}
    found = of_each(lambda x: x, lambda x: x, operands)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("kind", "seventh"), a_third_of(PAIRS, range(7), every=7))
def test_sweeps_are_exact_on_two_operands_of_kind(kind, seventh):
    operands = {name: lambda p, name=name: OF_TWO[name](*PAIRS[kind](p)) for name in [*OF_TWO][seventh::7]}
    found = of_each(lambda x: x, lambda x: x, operands)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", SMOOTH)
def test_a_second_derivative_that_exists_at_zero_is_given_of(name):
    found = of_each(*SMOOTH[name], {kind: KINDS[kind] for kind in ("zeros", "scalar", "expanded", "ones")})
    assert not found, "\n".join(found)


@pytest.mark.parametrize("scale", [1, 2.0, torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64)], ids=str)
def test_a_norm_of_magnitudes_is_that_of_what_is_in_them(scale):
    x, d = torch.tensor([[-0.9, 0.0, 0.4], [1.3, 0.7, -2.0]], dtype=torch.float64)
    got = quadratic_along(capture(lambda x: (x.abs() * scale).norm(), strict=True))(x, d)
    expected = quadratic_along(lambda x: (x * scale).norm())(x, d)
    torch.testing.assert_close(tuple(got), tuple(expected))


def test_magnitudes_of_which_as_many_windows_are_pooled_stay_sums():
    x, d = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(x):
        return F.avg_pool2d(x.abs(), 3, 1, 1).square().sum()

    got = quadratic_along(capture(loss, strict=True))(x, d)
    torch.testing.assert_close(tuple(got), tuple(quadratic_along(loss)(x, d)))


# What reads memory as it lies: the same numbers wherever the parameters lie at a later call.
AS_IT_LIES = {
    "as_strided": lambda x: x.contiguous().as_strided((3,), (1,), 1),
    "of_a_product": lambda x: (x * 2).contiguous().as_strided((3,), (1,)).sin(),
    "view_as_complex": lambda x: torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2))).abs().square(),
    "bits": lambda x: (x.contiguous().view(torch.int64) > 0) * x.sin(),
    "flat_view": lambda x: x.contiguous().view(-1)[1:].square(),
}


@pytest.mark.parametrize("name", AS_IT_LIES)
def test_a_later_call_in_other_strides_is_exact_of(name):
    operands = {"wide": lambda p: p["wide"], "product": lambda p: p["wide"] * p["scalar"]}
    found = of_each(AS_IT_LIES[name], AS_IT_LIES[name], operands)
    assert not found, "\n".join(found)
