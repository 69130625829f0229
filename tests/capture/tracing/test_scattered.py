"""What is written to places has the derivatives of what stays there."""

import pytest
import torch
from torch.nn import functional as F

from alpha_func import capture
from alpha_func.data_sets import per_example_quadratics
from tests.capture.test_kinds import assert_captured_exactly
from tests.helpers.whole import a_few_of

P = torch.tensor([1.0, -2.0, 1.0, 3.0, 0.5, 3.0, 2.0, 0.1, -1.0, 0.4, 0.2, -0.3], dtype=torch.float64)
LENGTHS, PAIRS = torch.tensor([3, 0, 9]), torch.tensor([[2, 4], [1, 5]])

# What is written, and what of it is there in the end; nothing is 0.
WRITTEN = {
    "maxima of windows that overlap": (
        lambda p: F.max_unpool1d(p[None, :4], torch.tensor([[1, 1, 3, 6]]), 2),
        lambda p: p[1:4],
    ),
    "the first of the largest": (
        lambda p: F.embedding_bag(torch.tensor([[0, 1, 2], [3, 3, 4]]), p.view(6, 2), mode="max"),
        lambda p: p[[0, 3, 6, 9]],
    ),
    "one number at two places": (
        lambda p: p.index_fill(0, torch.tensor([1, 1, 3]), p[5] * p[6]),
        lambda p: torch.stack([p[0], p[5] * p[6], p[2], p[5] * p[6], *p[4:]]),
    ),
    "products at two places": (
        lambda p: p[:3].index_reduce(0, torch.tensor([0, 2, 0]), p[3:6].sin(), "prod", include_self=False),
        lambda p: torch.stack([p[3].sin() * p[5].sin(), p[1], p[4].sin()]),
    ),
    "a product without dimensions": (
        lambda p: p[0].scatter_reduce(0, torch.tensor(0), p[3], "prod"),
        lambda p: p[0] * p[3],
    ),
    "means of segments": (
        lambda p: torch.segment_reduce(p, "mean", lengths=LENGTHS, initial=1.0),
        lambda p: torch.stack([(1 + p[:3].sum()) / 3, p.new_ones(()), (1 + p[3:].sum()) / 9]),
    ),
    "products of segments of rows": (
        lambda p: torch.segment_reduce(p.view(2, 6), "prod", lengths=PAIRS, axis=1),
        lambda p: torch.stack([p[:2].prod(), p[2:6].prod(), p[6], p[7:].prod()]),
    ),
    "others in memory": (
        lambda p: torch.as_strided_scatter(p.view(3, 4), p[:2].exp(), (2,), (5,), 1),
        lambda p: torch.cat([p[:1], p[:1].exp(), p[2:6], p[1:2].exp(), p[7:]]),
    ),
    "a copy, by a view of it": (lambda p: p.new_empty(3, 12).copy_(p).view(36), lambda p: p.repeat(3)),
    "a transpose, by a view": (lambda p: p.new_empty(4, 3).copy_(p.view(3, 4).t()).view(12), lambda p: p),
}


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("name", a_few_of(WRITTEN, list(WRITTEN)[:3] + list(WRITTEN)[-2:]))
def test_what_stays_where_it_is_written_has_the_gradient(name):
    written, stays = (lambda p, f=f: f(p).expm1().square().sum() for f in WRITTEN[name])
    assert_captured_exactly(written, P, truth_of=stays)


@pytest.mark.parametrize("write", [torch.slice_scatter, torch.select_scatter], ids=lambda write: write.__name__)
def test_values_of_another_dtype_are_written_under_vmap_too(write):
    def loss(w, values):
        return torch.stack([written(w, each).square().sum() for each in values]).mean()

    def written(w, each):
        return write(w, *((each[None], 0, 0, 1) if write is torch.slice_scatter else (each, 0, 0)))

    w, d, values = torch.tensor([0.5, 0.3]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.1], dtype=torch.float64)
    found = per_example_quadratics(capture(loss, strict=True))(w, d, (values,))
    assert found.value.tolist() == pytest.approx([0.34, 0.1], rel=1e-6)
    assert found.curvature.tolist() == pytest.approx([8.0, 8.0], rel=1e-6)
