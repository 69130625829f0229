"""Values that decide how a program is written: numbers that the loss reads, and how many places of a mask are true."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along
from alpha_func.errors import CaptureError
from tests.helpers.reference import assert_close, double_backward

X = torch.linspace(-1, 2, 12).double().reshape(6, 2)
P = torch.tensor([0.3, -0.7]).double()
MASK = torch.tensor([True, False, True, True, False, True])
FEWER = torch.tensor([True, False, True, False, False, True])
OTHERS = MASK.flip(0)


def by_index(p, mask):
    return (X * p)[mask].tanh().square().mean()


def by_select(p, mask):
    return torch.masked_select(X * p, mask[:, None]).exp().mean()


def by_nonzero(p, mask):
    places = mask.nonzero().squeeze(1)
    return F.cross_entropy((X * p)[places], places % 2)


def by_where(p, mask):
    (places,) = torch.where(mask)
    return (X * p).index_select(0, places).sin().std()


def of_two_dimensions(p, mask):
    return (X * p)[mask[:, None].expand(6, 2)].cosh().mean()


def by_count(p, mask):
    return (X * p).exp()[: int(mask.sum())].mean() / mask.sum().item()


def by_lengths(p, mask):
    steps = [(X[i] * p).tanh().sum() ** k for i, k in enumerate((mask.long() + 1).tolist())]
    return torch.stack(steps).mean()


LOSSES = [by_index, by_select, by_nonzero, by_where, of_two_dimensions, by_count, by_lengths]


def assert_right(captured, mask):
    truth, norm = double_backward(captured.loss, P, P, mask)
    got = quadratic_along(captured)(P, P, mask)
    assert_close(got.value, truth.value, 1e-12)
    assert_close(got.curvature, truth.curvature, 1e-10, P.norm() * norm)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_program_holds_for_the_values_that_it_was_written_for(loss):
    captured = capture(loss, strict=True)
    for mask in (MASK, FEWER, MASK, FEWER):
        assert_right(captured, mask)
    assert captured.captured == 2


@pytest.mark.parametrize("loss", [by_index, by_nonzero])
def test_another_mask_of_the_same_count_has_the_same_program(loss):
    captured = capture(loss, strict=True)
    assert_right(captured, MASK)
    assert_right(captured, OTHERS)
    assert captured.captured == 1


def test_a_frozen_loss_counts_as_well():
    captured = capture(by_index).frozen()
    for mask in (MASK, FEWER, OTHERS):
        assert_close(captured(P, mask), by_index(P, mask), 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_whose_examples_read_several_values_is_refused(loss):
    captured = capture(loss)
    masks = torch.stack([MASK, FEWER])
    with pytest.raises(CaptureError, match="one program runs for all examples under vmap"):
        torch.func.vmap(lambda mask: quadratic_along(captured)(P, P, mask).curvature)(masks)


def test_a_batch_whose_examples_read_one_value_is_run():
    for value in torch.func.vmap(capture(by_count), in_dims=(None, 0))(P, torch.stack([MASK, OTHERS])):
        assert_close(value, by_count(P, MASK), 1e-12)


def first_set(p, mask):
    mask = mask.clone()
    mask[0] = False
    return by_index(p, mask)


def through_a_view(p, mask):
    mask = mask.clone()
    mask.view(3, 2)[0].fill_(False)
    return by_index(p, mask)


def into_out(p, mask):
    other = mask.clone()
    torch.logical_not(mask, out=other)
    return by_index(p, other)


def of_the_argument(p, mask):
    mask &= MASK
    return (X * p).sum() * mask.sum().item()


def with_a_draw(p, mask):
    drawn = torch.zeros(6)
    drawn.view(3, 2).uniform_()
    return by_index(p, drawn > 0.5)


def with_a_parameter(p, mask):
    near = mask.clone()
    near[:2] = p.detach() > 0
    return by_index(p, near)


def with_nothing(p, mask):
    return by_index(p, torch.empty_like(mask))


@pytest.mark.parametrize("loss", [first_set, through_a_view, into_out])
def test_a_read_of_what_the_loss_writes_is_made_anew_with_the_writes(loss):
    captured = capture(loss, strict=True)
    for mask in (OTHERS, MASK, OTHERS):
        before = mask.clone()
        assert_right(captured, mask)
        assert torch.equal(mask, before)


@pytest.mark.parametrize("loss", [of_the_argument, with_a_draw, with_a_parameter, with_nothing])
def test_a_read_of_what_is_not_written_so_again_is_refused(loss):
    mask = OTHERS.clone()
    with pytest.raises(CaptureError):
        capture(loss)(P, mask)
    assert torch.equal(mask, OTHERS)


def entries(p, n):
    return (X * p).tanh()[n].square().sum() + (X * p)[:, n - 2, None].exp().sum() + (X * p).sin()[-n].sum()


def test_an_entry_whose_place_a_tensor_holds_is_looked_up_by_one_program():
    captured = capture(entries, strict=True)
    for n in (1, 2, 3):
        assert_right(captured, torch.tensor(n))
    assert captured.captured == 1


def checked(p, n):
    assert (n > 0).all()
    return (X * p).exp().sum() if n.sum() > 9 or not (n < 4).all() else (X * p).square().sum() * bool(n.any())


NUMBERS = {
    "a size": lambda p, n: ((X * p).T.tanh()[:, : n.max()] * torch.arange(n.max())).square().sum(),
    "a branch": checked,
    "a range": lambda p, n: sum((X[i] * p).tanh().sum() ** 2 for i in range(n.min(), n.max())),
    "classes": lambda p, n: (F.one_hot(n).double() @ p.sum().expand(int(n.max()) + 1)).square().sum(),
    "repeats": lambda p, n: torch.repeat_interleave((X[:3] * p).tanh(), n, dim=0).square().sum(),
    "places repeated": lambda p, n: (X * p).tanh()[torch.repeat_interleave(n)].square().sum(),
    "bins": lambda p, n: (torch.bincount(n, minlength=6).double() @ (X * p).tanh()[:6]).square().sum(),
}


@pytest.mark.parametrize("loss", NUMBERS.values(), ids=NUMBERS)
def test_whole_numbers_are_read_where_they_decide_what_is_called(loss):
    captured = capture(loss, strict=True)
    for numbers in ([1, 3, 2], [2, 5, 3], [1, 3, 2]):
        assert_right(captured, torch.tensor(numbers))
    assert captured.captured == 2


OF_ONE = {
    "item of a row of one": lambda p, n: p.square().sum() * n[:1].item(),
    "entries of a mask by itself": lambda p, n: p.square().sum() * (n > 1)[n > 1].sum(),
    "entries of a mask by another": lambda p, n: p.square().sum() * (n > 1).masked_select(mask=n > 2).sum(),
    "entries put at no place": lambda p, n: torch.masked_fill(p * 1, n > 2, 3.0).sum() + assigned(p, n).square().sum(),
}


def assigned(p, n):
    out = p.clone()
    out[n > 2] = p[n > 2].square()
    return out


@pytest.mark.parametrize("loss", OF_ONE.values(), ids=OF_ONE)
def test_what_is_read_of_numbers_is_what_a_plain_call_reads(loss):
    captured = capture(loss)
    for n in ([3, 1], [2, 4], [1, 1]):
        assert_right(captured, torch.tensor(n))


def test_a_mask_in_a_closure_is_counted_anew():
    masks = [MASK]
    captured = capture(lambda p: by_index(p, masks[0]))
    for mask in (MASK, FEWER):
        masks[0] = mask
        assert_close(captured(P), by_index(P, mask), 1e-12)
    FEWER_THEN = MASK.clone()
    masks[0] = FEWER_THEN
    captured(P)
    FEWER_THEN[0] = False
    assert_close(captured(P), by_index(P, FEWER_THEN), 1e-12)


def test_a_mask_of_the_parameters_is_refused_with_a_remedy_that_runs():
    with pytest.raises(CaptureError, match="use the uncaptured loss, which runs"):
        capture(lambda p: p[p > 0].square().sum())(P)


def test_every_later_call_reads_the_values_of_its_own_mask():
    torch.manual_seed(0)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randint(3, (6,))
    loss, params = functional_loss(
        nn.Linear(4, 3).double(), loss_of=lambda net, x, y, mask: F.cross_entropy(net(x)[mask], y[mask])
    )
    captured = capture(loss, strict=True)
    for left_out in (1, 1, 1, 2, 1):  # of one layout: the second call and those after it are looked up by that
        mask = torch.arange(6) >= left_out
        expected = grad_and_quadratic(loss)(params, x, y, mask).quadratic
        got = grad_and_quadratic(captured)(params, x, y, mask).quadratic
        assert_close(got.curvature, expected.curvature, 1e-12)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.normal(torch.zeros(6), 1.0) > 0,
        lambda: F.dropout(torch.ones(6)) > 0,
        lambda: torch.rand(6) > 0.5,
        lambda: torch.ones(6).bernoulli_(0.5).bool(),
    ],
)
def test_a_mask_that_is_drawn_is_refused_and_nothing_drawn(draw):
    class Drawing(nn.Linear):
        def forward(self, x):
            return super().forward(x)[draw()].square().sum()

    loss, params = functional_loss(Drawing(2, 3).double())
    state = torch.get_rng_state()
    with pytest.raises(CaptureError, match="depends on values"):
        quadratic_along(capture(loss))(params, params, X)
    assert torch.equal(state, torch.get_rng_state())
