"""Where PyTorch gives no number: at a masked infinity, a saturated sigmoid, a matrix of equal singular values.

A captured loss gives every number there that the plain loss has; and where the plain loss has none and the derivative
exists, often that.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from alpha_func import capture, grad_and_quadratic, hvp, quadratic_along, tree
from tests.helpers.whole import a_few_of

MASK = torch.tensor([[True, True, False], [False, False, False]])
TENS = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
POINT = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
SCORES = torch.tensor([[0.3, -0.7, 1.2], [0.5, 0.1, -0.2]], dtype=torch.float64)
LOGITS = torch.tensor([30.0, -30.0, 120.0, 0.5])


def attention(p):
    return p.masked_fill(~MASK, -math.inf).softmax(-1)


SINGULAR = {
    "where of a square root": (lambda p: torch.where(p > 0, p.sqrt(), p * p).sum(), POINT),
    "where of a quotient": (lambda p: torch.where(p != 0, 1 / p, 0.0).sum(), POINT),
    "where of a norm": (lambda p: torch.where(p.norm() > 0, p.norm(), 0.0) + p.sum() ** 2, POINT * 0),
    "where of a power": (lambda p: torch.where(p > 0, p**0.3, 0.0).sum(), POINT),
    "where of an overflow": (lambda p: torch.where(p < 50, p.exp(), p).sum(), POINT * 1000),
    "nan_to_num of a logarithm": (lambda p: p.log().nan_to_num(0.0, 0.0, 0.0).sum(), POINT),
    "nan_to_num of a masked row": (lambda p: (attention(p).nan_to_num(0.0) * TENS).square().sum(), SCORES),
    "masked_fill of a masked row": (lambda p: attention(p).masked_fill(~MASK, 0.0).square().sum(), SCORES),
    "nansum": (lambda p: p.log().nansum() + p.sum() ** 2, POINT - 0.5),
    "saturated sigmoids": (
        lambda p: F.binary_cross_entropy(torch.sigmoid(p), torch.tensor([1.0, 0.0, 1.0, 0.0])),
        LOGITS,
    ),
    "a saturated softmax": (lambda p: -p.softmax(-1)[0].log(), LOGITS),
    "a determinant of equal singular values": (lambda p: torch.linalg.det(p) ** 2, 2 * torch.eye(3).double()),
    "a determinant of zero": (lambda p: torch.linalg.det(p) + p.square().sum(), torch.zeros(3, 3).double()),
    "a nuclear norm of equal singular values": (lambda p: torch.linalg.matrix_norm(p, "nuc"), torch.eye(3).double()),
    "a cosine of zero": (lambda p: F.cosine_similarity(p[0], p[1], 0), SCORES * torch.tensor([[0.0], [1.0]])),
    "a product of zeros": (lambda p: p.cumprod(0).square().sum(), POINT * torch.tensor([1.0, 1.0, 0.0])),
}
FEW = {"where of a square root", "nan_to_num of a masked row", "saturated sigmoids"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", a_few_of(SINGULAR, FEW))
def test_every_number_of_the_plain_loss_is_one_of_the_captured(name):
    loss, p = SINGULAR[name]
    d = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(0))
    verbs = {
        "sweep": lambda loss: quadratic_along(loss)(p, d),
        "adjoint": lambda loss: grad_and_quadratic(loss, lambda grads: d)(p),
        "descent": lambda loss: grad_and_quadratic(loss)(p),
        "product": lambda loss: hvp(loss)(p, d),
    }
    for verb, ask in verbs.items():
        plain, captured = ask(loss), ask(capture(loss))
        for x, y in zip(tree.leaves(plain), tree.leaves(captured), strict=True):
            assert bool((y.isfinite() | ~x.isfinite()).all()), f"{verb}: {x.tolist()} plain, {y.tolist()} captured"
            torch.testing.assert_close(y[x.isfinite()], x[x.isfinite()], rtol=1e-4, atol=1e-6)
