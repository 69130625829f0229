"""A data set batch by batch, and a batch chunk by chunk: equal to the whole, or pointed out."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from alpha_func import capture, functional_loss, grad_and_quadratic, hvp, quadratic_along, tree
from alpha_func.data_sets import accumulate, microbatched
from alpha_func.errors import BatchDependenceWarning
from alpha_func.losses.kernels import twice_differentiable
from tests.helpers.cases import MODULES, line, mlp, mse_net
from tests.helpers.reference import assert_quadratic, dense, double_backward, flat

RAGGED = (7, 1, 16, 3, 5)
WAYS = {"eager": lambda loss: loss, "captured": capture}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def pieces(args, sizes=RAGGED):
    return list(zip(*(a.split(list(sizes)) for a in args), strict=True))


def assert_whole(got, case, tol=1e-12):
    assert_quadratic(got, dense(case.loss, case.params, *case.args), case.direction, tol)


# accumulate


@every_way
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ragged_batches_sum_to_the_quadratic_of_the_one_big_batch(way, reduction):
    case = mse_net(criterion=nn.MSELoss(reduction=reduction), activation=nn.Tanh)
    got = accumulate(way(case.loss))(case.params, case.direction, pieces(case.args))
    assert_whole(got, case)


CRITERIA = {
    "ignored targets": nn.CrossEntropyLoss(ignore_index=0),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 3.0, 1.0])),
    "weights and ignored": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 3.0, 1.0]), ignore_index=2),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=1),
    "function": F.cross_entropy,
    "sum": nn.CrossEntropyLoss(reduction="sum"),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_the_weight_of_a_cross_entropy_is_what_it_averages_over(name):
    torch.manual_seed(0)
    case = line(mlp([4, 5, 3]), CRITERIA[name], torch.randn(32, 4), torch.randint(3, (32,)))
    if isinstance(CRITERIA[name], nn.Module):
        CRITERIA[name].double()
    case.args[1][7] = CRITERIA[name].ignore_index if isinstance(CRITERIA[name], nn.Module) else 0  # a batch of nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = accumulate(case.loss)(case.params, case.direction, pieces(case.args))
    assert_whole(got, case)


def test_probabilities_as_targets_count_as_examples():
    torch.manual_seed(0)
    case = line(mlp([4, 5, 3]), nn.CrossEntropyLoss(), torch.randn(32, 4), torch.randn(32, 3).softmax(-1))
    assert_whole(accumulate(case.loss)(case.params, case.direction, pieces(case.args)), case)


def token_loss(params, tokens, *, pad=0):
    """Cross entropy of the next token, averaged over those that are no padding."""
    logits = torch.tanh(params["embedding"][tokens[:, :-1]]) @ params["head"]
    targets = tokens[:, 1:]
    kept = (targets != pad).to(logits.dtype)
    return (F.cross_entropy(logits.transpose(1, 2), targets, reduction="none") * kept).sum() / kept.sum()


def token_case():
    g = torch.Generator().manual_seed(0)
    params = {"embedding": torch.zeros(9, 4, dtype=torch.float64), "head": torch.zeros(4, 9, dtype=torch.float64)}
    params, direction = tree.randn_like(params, generator=g), tree.randn_like(params, generator=g)
    tokens = torch.randint(1, 9, (32, 6), generator=g)
    lengths = torch.randint(2, 7, (32,), generator=g)
    return params, direction, tokens * (torch.arange(6) < lengths[:, None]), lengths


def test_a_mean_over_tokens_is_weighted_by_tokens_in_batches_of_any_width():
    params, direction, tokens, lengths = token_case()
    batches = [
        some[:, : max(n)] for some, n in zip(tokens.split(RAGGED), map(list, lengths.split(RAGGED)), strict=True)
    ]
    got = accumulate(token_loss, weight=lambda tokens: (tokens[:, 1:] != 0).sum())(params, direction, batches)
    assert_quadratic(got, dense(token_loss, params, tokens), direction, 1e-12)


def test_batches_may_be_mappings_tensors_lists_or_a_data_loader():
    case = mse_net(activation=nn.Tanh)
    x, y = case.args
    total = accumulate(case.loss)
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    mappings = ({"targets": b, "inputs": a} for a, b in pieces(case.args))
    for batches in (loader, mappings):
        assert_whole(total(case.params, case.direction, batches), case)
    of_inputs = accumulate(lambda p, x: case.loss(p, x, torch.zeros(len(x), 1, dtype=x.dtype)))
    zeros = dense(case.loss, case.params, x, torch.zeros_like(y))
    assert_quadratic(of_inputs(case.params, case.direction, x.split(9)), zeros, case.direction, 1e-12)


def test_sums_are_in_float64_for_a_loss_in_float32():
    case = mse_net(dtype=torch.float32, batch=4096, activation=nn.Tanh)
    got = accumulate(case.loss)(case.params, case.direction, zip(*(a.split(8) for a in case.args), strict=True))
    assert {number.dtype for number in got} == {torch.float64}
    doubled = [tree.map(torch.Tensor.double, part) for part in (case.params, case.direction, case.args)]
    truth, hd = double_backward(case.loss, doubled[0], doubled[1], *doubled[2])
    d = flat(case.direction).double().norm()
    assert abs(got.value - truth.value) <= 1e-7 * truth.value
    assert abs(got.curvature - truth.curvature) <= 1e-7 * d * hd


def test_full_batches_have_one_program_and_the_ragged_last_another():
    case = mse_net(batch=30)
    captured = capture(case.loss)
    for _ in range(2):
        accumulate(captured)(case.params, case.direction, zip(*(a.split(8) for a in case.args), strict=True))
    assert captured.captured == 2


def test_ctrl_c_gives_what_was_summed_so_far():
    case = mse_net()

    def interrupted():
        yield from pieces(case.args)[:3]
        raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="first 3 batches, of weight 24"):
        got = accumulate(case.loss)(case.params, case.direction, interrupted())
    first = [a[:24] for a in case.args]
    assert_quadratic(got, dense(case.loss, case.params, *first), case.direction, 1e-12)


def test_ctrl_c_before_the_first_batch_is_ctrl_c():
    case = mse_net()

    def interrupted():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        accumulate(case.loss)(case.params, case.direction, interrupted())


def test_the_total_says_what_it_is_of():
    case = mse_net()
    total = accumulate(case.loss).total(case.params, case.direction, pieces(case.args))
    assert (total.weight, total.batches, total.complete) == (32.0, 5, True)
    nothing = accumulate(case.loss).total(case.params, case.direction, [])
    assert (nothing.result, nothing.weight, nothing.batches) == (None, 0.0, 0)


def test_a_progress_bar_is_shown_if_asked(capsys):
    case = mse_net()
    accumulate(case.loss)(case.params, case.direction, pieces(case.args))
    assert capsys.readouterr().out == ""
    got = accumulate(case.loss)(case.params, case.direction, pieces(case.args), progress=True)
    assert_whole(got, case)
    assert "batches" in capsys.readouterr().out


def test_memory_does_not_grow_with_the_number_of_batches():
    """A generator's batches die one by one."""
    import weakref

    case = mse_net()
    alive = []

    def batches():
        for _ in range(20):
            x, y = (a.clone() for a in case.args)
            alive.append(weakref.ref(x))
            yield x, y
            del x, y
            assert sum(ref() is not None for ref in alive) <= 2

    accumulate(case.loss)(case.params, case.direction, batches())


DEPENDENT = {
    "BatchNorm": (lambda: nn.BatchNorm1d(6), r"BatchNorm1d '1' in train"),
    "dropout": (lambda: nn.Dropout(0.5), r"Dropout '1' in train"),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_batch_dependent_layer_is_named_and_not_in_eval_mode(name):
    make, message = DEPENDENT[name]
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 6), make(), nn.Linear(6, 2))
    case = line(module, nn.MSELoss(), torch.randn(12, 3), torch.randn(12, 2))
    with pytest.warns(BatchDependenceWarning, match=message):
        accumulate(case.loss)(case.params, case.direction, pieces(case.args, (6, 6)))
    with pytest.raises(ValueError, match=message):
        quadratic_along(microbatched(case.loss, 6))(case.params, case.direction, *case.args)
    module.eval()
    assert_whole(accumulate(case.loss)(case.params, case.direction, pieces(case.args, (6, 6))), case)


def contrastive(params, x):
    z = x @ params
    return (z[:, None] - z[None]).square().mean()


def test_a_loss_whose_examples_depend_on_each_other_is_told_of():
    g = torch.Generator().manual_seed(0)
    params, x = torch.randn(3, generator=g), torch.randn(8, 3, generator=g)
    with pytest.warns(BatchDependenceWarning, match="depend on each other"):
        accumulate(contrastive)(params, params, x.split(4))
    with pytest.raises(ValueError, match="depend on each other"):
        microbatched(contrastive, 4)(params, x)


@pytest.mark.parametrize(("said", "is_"), [("mean", "sum"), ("sum", "mean")])
def test_a_sum_taken_for_a_mean_is_refused(said, is_):
    def loss(params, x):
        return getattr((x @ params).exp(), is_)()

    params = torch.ones(3)
    with pytest.raises(ValueError, match=f"reduction is '{said}', but the loss is a {is_}"):
        accumulate(loss, reduction=said)(params, params, torch.randn(8, 3).split(4))


BAD = {
    "loss": (lambda c: accumulate(3), TypeError, r"loss must be callable"),
    "weight": (lambda c: accumulate(c.loss, weight=3), TypeError, r"weight must be callable as weight\(\*batch\)"),
    "weight name": (lambda c: accumulate(c.loss, weight="tokens"), ValueError, r"weight 'tokens' is unknown"),
    "reduction": (lambda c: accumulate(c.loss, reduction="max"), ValueError, r"reduction 'max'.*mean, sum"),
    "weighted sum": (lambda c: accumulate(c.loss, reduction="sum", weight=len), ValueError, r"leave weight out"),
    "no batches": (lambda c: accumulate(c.loss)(c.params, c.direction, []), ValueError, r"batches is empty"),
    "a tensor": (lambda c: accumulate(c.loss)(c.params, c.direction, c.args[0]), TypeError, r"iterable of batches"),
    "negative weight": (
        lambda c: accumulate(c.loss, weight=lambda *b: -1)(c.params, c.direction, [c.args]), ValueError, r"is -1\.0"
    ),
    "weights of 0": (
        lambda c: accumulate(c.loss, weight=lambda *b: 0)(c.params, c.direction, [c.args]), ValueError, r"batches are 0"
    ),
    "direction": (lambda c: accumulate(c.loss)(c.params, {}, [c.args]), ValueError, r"direction must have"),
    "size": (lambda c: microbatched(c.loss, 0), ValueError, r"size is 0"),
    "size type": (lambda c: microbatched(c.loss, 2.0), TypeError, r"size must be a whole number.*float"),
    "uneven": (
        lambda c: microbatched(c.loss, 4)(c.params, c.args[0], c.args[1][:5]), ValueError, r"batch\[0\] \(32, 10\), b"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused(name):
    attempt, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        attempt(mse_net())


def test_examples_of_changing_shape_need_a_weight():
    def loss(params, x):
        return (x * params).square().mean()

    batches = [torch.randn(4, 3), torch.randn(4, 5)]
    with pytest.raises(ValueError, match=r"shapes \(3,\) in one batch and \(5,\) in another.*pass weight="):
        accumulate(loss)(torch.tensor(1.0), torch.tensor(1.0), batches)
    weight = lambda x: x.numel()  # noqa: E731
    got = accumulate(loss, weight=weight)(torch.tensor(1.0), torch.tensor(1.0), batches)
    assert got.curvature == pytest.approx(2 * float(sum(x.square().sum() for x in batches)) / 32, rel=1e-6)


def test_the_labels_of_a_language_model_need_a_weight():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 5)

        def forward(self, labels):
            return F.cross_entropy(self.embedding(labels).transpose(1, 2), labels)

    loss, params = functional_loss(Model())
    with pytest.raises(ValueError, match=r"labels, \(2, 3\), that are not ignored.*labels\[:, 1:\] != -100"):
        accumulate(loss)(params, params, [{"labels": torch.ones(2, 3, dtype=torch.int64)}])


# microbatched


@every_way
@pytest.mark.parametrize("name", sorted(set(MODULES) - {"batch_norm_train", "dropout", "tied"}))
@pytest.mark.parametrize("size", [3, 8])
def test_chunks_are_the_whole(way, name, size):
    case = MODULES[name]()
    loss = microbatched(way(case.loss), size)
    with twice_differentiable():
        truth = dense(case.loss, case.params, *case.args)
    assert float(loss(case.params, *case.args)) == pytest.approx(float(truth.value), rel=1e-12)
    assert_quadratic(quadratic_along(loss)(case.params, case.direction, *case.args), truth, case.direction, 1e-12)
    step = grad_and_quadratic(loss)(case.params, *case.args)
    assert torch.allclose(flat(step.grads), truth.gradient, rtol=1e-12, atol=1e-14)
    assert_quadratic(step.quadratic, truth, step.direction, 1e-12)


def test_chunks_of_a_product_and_of_a_plain_gradient_are_the_whole():
    case = mse_net(activation=nn.Tanh, criterion=nn.MSELoss(reduction="sum"))
    loss = microbatched(case.loss, 5)
    truth = dense(case.loss, case.params, *case.args)
    hd = truth.hessian @ flat(case.direction)
    got = flat(hvp(loss)(case.params, case.direction, *case.args))
    assert (got - hd).norm() <= 1e-12 * hd.norm()
    plain = flat(torch.func.grad(loss)(case.params, *case.args))
    assert (plain - truth.gradient).norm() <= 1e-12 * truth.gradient.norm()


def test_directions_are_batched_over_chunks():
    case = mse_net(activation=nn.Tanh)
    loss = microbatched(capture(case.loss), 10)
    directions = tree.map(lambda leaf: torch.randn(3, *leaf.shape, dtype=leaf.dtype), case.params)
    got = torch.func.vmap(lambda d: quadratic_along(loss)(case.params, d, *case.args))(directions)
    for i in range(3):
        d = tree.map(lambda leaf, i=i: leaf[i], directions)
        assert_quadratic(tree.map(lambda leaf, i=i: leaf[i], got), dense(case.loss, case.params, *case.args), d, 1e-12)


def test_accumulate_takes_a_microbatched_loss():
    case = mse_net(activation=nn.Tanh)
    got = accumulate(microbatched(capture(case.loss), 4))(case.params, case.direction, pieces(case.args))
    assert_whole(got, case)


def test_a_chunk_s_activations_are_gone_before_the_next():
    """The most live tensor elements at any time, counted by the tensors that a loss sees."""
    import weakref

    alive, most = [], [0]

    def loss(params, x):
        hidden = torch.tanh(x @ params)
        alive.append(weakref.ref(hidden))
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        return hidden.square().mean()

    params = torch.randn(3, 3, dtype=torch.float64)
    x = torch.randn(40, 3, dtype=torch.float64)
    grad_and_quadratic(microbatched(loss, 4))(params, x)
    assert len(alive) > 20
    assert most[0] <= 3
