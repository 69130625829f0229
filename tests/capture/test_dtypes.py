"""Integers, bools, constants and mixed dtypes beside parameters, and limits where 0·∞ would be nan: the sweeps against
double backward."""

import pytest
import torch
from torch.nn import functional as F

from alpha_func import capture
from tests.helpers.sweeps import assert_exact

W, V = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64), torch.tensor([0.9, 0.4, -0.6], dtype=torch.float64)
BYTES = torch.tensor([1, 200, 3], dtype=torch.uint8)
INTS, MASK = torch.arange(3), torch.tensor([True, False, True])


def square(x):
    return x.square().sum()


# name: (loss, tensors after the parameter)
LOSSES = {
    "float - uint8": (lambda w, u: square(w - u), BYTES),
    "rsub of uint8": (lambda w, u: square(torch.rsub(u, w)), BYTES),
    "float - half of uint8": (lambda w, u: square(torch.sub(w, u, alpha=0.5)), BYTES),
    "uint8 wraps around in a sum": (lambda w, u: square((u + u) * w), BYTES),
    "uint8 wraps around in a difference": (lambda w, u: square((u - 2 * u) * w), BYTES),
    "uint8 is summed as int64": (lambda w, u: square((u + u).sum(0, keepdim=True) * w), BYTES),
    "bool + bool": (lambda w, m: square((m + m).sum() * w), MASK),
    "sums of one bool": (lambda w, m: square(w / (m[:, None].sum(-1) + m[:, None].sum(-1) + 1)), MASK),
    "ints * -1.": (lambda w, i: square((i * -1.0) * w), INTS),
    "mask * -1.": (lambda w, m: square(m * -1.0 + w), MASK),
    "mask * -1": (lambda w, m: square(m * -1 + w), MASK),
    "mean of halves of a mask": (lambda w: square(w) * ((w > 0) * 0.5).mean(),),
    "ints ** 2.": (lambda w, i: square(F.silu(i**2.0) * w), INTS),
    "ints ** 2": (lambda w, i: square(i**2 * w), INTS),
    "i + .5 * j": (lambda w, i, j: square((i + 0.5 * j) * w), INTS, INTS + 1),
    "i / 2": (lambda w, i: square(i / 2 * w), INTS),
    "1 - i": (lambda w, i: square((1 - i) * w), INTS),
    "float ** ints": (lambda w, i: (w.abs() ** i).sum(), INTS),
    "2 ** float": (lambda w: (2**w).sum(),),
    "mask over its sum": (lambda w, m: square(w * m / m.sum()), MASK),
    "complex times ints": (lambda w, i: ((torch.complex(w, w) * i) + i * 1j).abs().sum(), INTS + 1),
    "zeros + 1e-3": (lambda w: square((torch.zeros_like(w) + 1e-3) * w),),
    "2 * zeros - 1": (lambda w: square((2 * torch.zeros_like(w) - 1) * w),),
    "zeros looked up": (lambda w, i: square(w + torch.zeros(5, dtype=w.dtype)[i]), INTS),
    "bce against zeros": (lambda w: F.binary_cross_entropy(torch.sigmoid(w), torch.zeros_like(w)),),
    "bce with a weight of ones": (
        lambda w: F.binary_cross_entropy_with_logits(w, torch.zeros_like(w), pos_weight=torch.ones_like(w)),
    ),
    "power zero": (lambda w: torch.pow(w, torch.zeros_like(w)).sum() + square(w),),
    "atan2 of ones": (lambda w: square(torch.atan2(w, torch.ones_like(w))),),
    "a filled mask": (lambda w: torch.where(~torch.full((3,), True), w, w**2).sum(),),
    "temporary.zero_()": (lambda w: square(_zeroed(w * 2, w)),),
    "x[mask] = a row": (lambda w, m: square(_assigned(w[None].expand(3, 3).clone(), m, w * w)), MASK),
    "x[mask] = rows": (lambda w, m: square(_assigned(w[None].expand(3, 3).clone(), m, torch.stack([w * w, w]))), MASK),
    "x[mask] = a number": (lambda w, m: square(_assigned(w * 1, m, (w * w).sum())), MASK),
    "det at equal singular values": (lambda w: torch.linalg.det(torch.eye(3, dtype=w.dtype) + w - w.detach()),),
    "sqrt of what a clamp holds at 0": (lambda w: w.clamp(min=0).sqrt().sum(),),
    "root of what a ReLU holds at 0": (lambda w: (F.relu(w) ** 0.5).sum(),),
    "nan_to_num of an empty row": (
        lambda w, m: square(torch.softmax((w[:, None] * w).masked_fill(~m[:, None], -torch.inf), -1).nan_to_num(0.0)),
        MASK,
    ),
}


def _zeroed(x, w):
    x[0].zero_()
    x[1].fill_(w[2])
    return x


def _assigned(x, mask, values):
    x[mask] = values
    return x


@pytest.mark.parametrize("name", LOSSES)
def test_sweeps_are_exact_on(name):
    loss, *args = LOSSES[name]
    assert_exact(lambda p, *args: loss(p["w"], *args), {"w": W}, *args)


MIXED = {
    "product": lambda x, y: x * y,
    "quotient": lambda x, y: x / y,
    "sum, then a matrix product": lambda x, y: (x[None] + y[:, None]) @ (x + y),
    "where": lambda x, y: torch.where(x > y, x, y),
    "cat": lambda x, y: torch.cat([x, y]),
    "atan2": torch.atan2,
    "maximum": torch.maximum,
    "0-d": lambda x, y: x * y[0],
    "complex": lambda x, y: torch.view_as_real(torch.complex(x, x) * y),
}


@pytest.mark.parametrize("name", MIXED)
def test_sweeps_promote_float32_beside_float64_as_torch_does_in(name):
    function = MIXED[name]
    params = {"x": W.float(), "y": V}
    assert_exact(lambda p: square(function(p["x"], p["y"])), params, tolerance=1e-5)
    assert_exact(lambda p: square(function(p["y"], p["x"])), params, tolerance=1e-5)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_saturated_sigmoid_bends_nothing(target):
    x = torch.tensor([200.0, -200.0, 0.5])
    assert_exact(
        lambda p, t: F.binary_cross_entropy(torch.sigmoid(p["x"]), t),
        {"x": x},
        torch.full((3,), target),
        tolerance=1e-6,
    )


def test_a_masked_assignment_of_another_count_raises():
    captured = capture(lambda p, m: square(_assigned(p["w"] * 1, m, p["w"][:2])))
    captured({"w": W}, MASK)
    with pytest.raises(IndexError):
        captured({"w": W}, torch.tensor([True, True, True]))
