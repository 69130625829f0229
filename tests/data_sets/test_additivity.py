"""What the mean of a batch is over: a criterion's rule, the caller's word, or a guess that every batch must pass."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import functional_loss, hvp, quadratic_along, tree
from alpha_func.data_sets import accumulate, microbatched
from alpha_func.errors import BatchDependenceWarning
from alpha_func.quadratic import Quadratic
from tests.helpers.cases import line, mlp, mse_net
from tests.helpers.reference import assert_quadratic, dense

BATCH, WIDTH, PAD = 8, 6, -1
CLASS_WEIGHTS = torch.tensor([0.2, 3.0, 1.0], dtype=torch.float64)


class Tagger(nn.Module):
    """A class for every token."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens))).transpose(1, 2)


def masked_mean(outputs, targets):
    kept = targets != PAD
    return (F.cross_entropy(outputs, targets.clamp(min=0), reduction="none") * kept).sum() / kept.sum()


def class_mean(outputs, targets):
    w = CLASS_WEIGHTS[targets.clamp(min=0)] * (targets != PAD)
    return (F.cross_entropy(outputs, targets.clamp(min=0), reduction="none") * w).sum() / w.sum()


def _last_of_the_second(targets):
    targets[BATCH + 5 : 2 * BATCH, 2:] = PAD


def _alike_in_the_second(targets):
    targets[BATCH : 2 * BATCH, 3:] = PAD  # its halves have one weight, and agree


def _the_first_alone(targets):
    targets[:BATCH, 1:] = PAD


def _what_the_others_are_compared_with(targets):
    targets[0] = PAD


def _a_whole_batch(targets):
    targets[BATCH : 2 * BATCH] = PAD


PADDED = {
    function.__name__[1:]: function
    for function in (
        _last_of_the_second, _alike_in_the_second, _the_first_alone, _what_the_others_are_compared_with, _a_whole_batch
    )
}  # fmt: skip
GUESSED = {
    "masked mean": (masked_mean, lambda x, y: (y != PAD).sum()),
    "class weights by hand": (class_mean, lambda x, y: (CLASS_WEIGHTS[y.clamp(min=0)] * (y != PAD)).sum()),
    "a lambda": (lambda o, t: F.cross_entropy(o, t, ignore_index=PAD), lambda x, y: (y != PAD).sum()),
}
RULES = {
    "module": nn.CrossEntropyLoss(ignore_index=PAD),
    "class weights": nn.CrossEntropyLoss(ignore_index=PAD, weight=CLASS_WEIGHTS),
    "smoothed": nn.CrossEntropyLoss(ignore_index=PAD, weight=CLASS_WEIGHTS, label_smoothing=0.1),
    "partial": partial(F.cross_entropy, ignore_index=PAD),
    "partial, class weights": partial(F.cross_entropy, ignore_index=PAD, weight=CLASS_WEIGHTS),
    "sum": nn.CrossEntropyLoss(ignore_index=PAD, reduction="sum"),
}


def tagging(criterion, pad):
    torch.manual_seed(0)
    tokens, targets = torch.randint(5, (3 * BATCH + 2, WIDTH)), torch.randint(3, (3 * BATCH + 2, WIDTH))
    pad(targets)
    case = line(Tagger(), criterion, tokens, targets)
    return case, list(zip(tokens.split(BATCH), targets.split(BATCH), strict=True))


def assert_silently_whole(summed, case, batches):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = summed(case.params, case.direction, batches)
    assert_quadratic(got, dense(case.loss, case.params, *case.args), case.direction, 1e-12)


@pytest.mark.parametrize("pad", PADDED)
@pytest.mark.parametrize("criterion", RULES)
def test_a_criterion_s_rule_is_counted_in_every_batch(criterion, pad):
    case, batches = tagging(RULES[criterion], PADDED[pad])
    assert_silently_whole(accumulate(case.loss), case, batches)


@pytest.mark.parametrize("pad", PADDED)
@pytest.mark.parametrize("criterion", GUESSED)
def test_a_guess_that_fails_in_any_batch_is_pointed_out(criterion, pad):
    function, weight = GUESSED[criterion]
    case, batches = tagging(function, PADDED[pad])
    with pytest.warns(BatchDependenceWarning, match="mean is not over their number") as warned:
        accumulate(case.loss)(case.params, case.direction, batches)
    assert [warning.filename for warning in warned] == [__file__]
    assert_silently_whole(accumulate(case.loss, weight=weight), case, batches)


def test_a_guess_that_holds_is_silent():
    case = mse_net(criterion=lambda o, t: (o - t).square().mean())
    batches = list(zip(*(a.split(7) for a in case.args), strict=True))
    assert_silently_whole(accumulate(case.loss), case, batches)
    assert_silently_whole(accumulate(case.loss, reduction="mean"), case, batches)


@pytest.mark.parametrize("pad", ["last_of_the_second", "alike_in_the_second", "a_whole_batch"])
def test_chunks_are_checked_at_every_call_and_in_every_way(pad):
    case, batches = tagging(masked_mean, PADDED[pad])
    loss = microbatched(case.loss, 4)
    quadratic_along(loss)(case.params, case.direction, *batches[0])
    padded = [torch.cat(two) for two in zip(*batches[:2], strict=True)]
    ways = (
        lambda: loss(case.params, *padded),
        lambda: quadratic_along(loss)(case.params, case.direction, *padded),
        lambda: hvp(loss)(case.params, case.direction, *padded),
    )
    for way in ways:
        with pytest.raises(ValueError, match="cannot be cut into chunks"):
            way()
    by_tokens = microbatched(case.loss, 4, weight=lambda x, y: (y != PAD).sum())
    got = quadratic_along(by_tokens)(case.params, case.direction, *padded)
    assert_quadratic(got, dense(case.loss, case.params, *padded), case.direction, 1e-12)


def forwarded(criterion, n_batches=5, **options):
    """How many examples the checks look at beside the batches' own."""
    torch.manual_seed(0)
    seen = []
    net = mlp([3, 2])
    net[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])) if not torch.is_grad_enabled() else None)
    loss, params = functional_loss(net, criterion)
    batches = [(torch.randn(16, 3), torch.randn(16, 2))] * n_batches
    summed = accumulate(loss, **options)
    summed(params, tree.map(torch.randn_like, params), batches)
    first = sum(seen)
    summed(params, tree.map(torch.randn_like, params), batches)
    return first, sum(seen) - first


def test_a_known_weight_costs_one_more_forward_and_a_guess_one_a_batch():
    own = lambda o, t: (o - t).square().mean()  # noqa: E731
    assert forwarded(nn.MSELoss()) == (16, 0)
    assert forwarded(own, weight="examples") == (16, 0)
    assert forwarded(own) == (16 + 4 * 18, 16 + 4 * 18)


def test_a_loss_of_one_number_of_examples_alone_is_said_to_be_unchecked():
    def loss(params, x):
        return (x.view(4, 3) * params).square().mean()

    with pytest.warns(BatchDependenceWarning, match="the loss does not run on fewer"):
        accumulate(loss)(torch.tensor(1.0), torch.tensor(1.0), [torch.ones(4, 3), torch.ones(4, 3)])


def test_a_number_that_goes_with_each_batch_is_not_taken_for_another_s():
    def loss(params, x, scale):
        return scale * (x * params).square().mean()

    x = torch.arange(1.0, 13.0).view(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = accumulate(loss)(torch.tensor(1.0), torch.tensor(1.0), [(x, 1.0), (x + 1, 2.0)])
    assert isinstance(got, Quadratic)
