"""Recurrent nets of packed sequences, captured: every kernel, the ways in which they are packed, given and read."""

import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.errors import CaptureError
from tests.helpers.reference import assert_close, double_backward
from tests.helpers.whole import a_few_of

KERNELS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
NETS = {
    "lstm": {},
    "gru": {},
    "tanh": {},
    "relu": {},
    "lstm, dropout": {"num_layers": 2, "dropout": 0.5},
    "gru, deep, both ways, dropout": {"num_layers": 2, "dropout": 0.5, "bidirectional": True},
    "lstm, deep, both ways": {"num_layers": 2, "bidirectional": True},
    "lstm, projected": {"proj_size": 2},
    "lstm, deep, both ways, projected": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "lstm, no bias": {"bias": False},
}


class Net(nn.Module):
    def __init__(self, name, sort=False, batch_first=True):
        super().__init__()
        self.rnn = KERNELS[name.partition(",")[0]](2, 3, batch_first=batch_first, **NETS[name])
        self.sort, self.batch_first = sort, batch_first

    def packed(self, x, lengths):
        return rnn.pack_padded_sequence(x, lengths, batch_first=self.batch_first, enforce_sorted=not self.sort)


def by_data(net, x, lengths):
    return net.rnn(net.packed(x, lengths))[0].data.exp().mean()


def padded(net, x, lengths):
    out, lengths = rnn.pad_packed_sequence(net.rnn(net.packed(x, lengths))[0], batch_first=net.batch_first)
    out = out if net.batch_first else out.transpose(0, 1)
    return out[torch.arange(len(lengths)), lengths - 1].square().sum(-1).exp().mean() + out.mean()


def steps_first(net, x, lengths):
    return padded(net, x.transpose(0, 1), lengths)


def padded_further(net, x, lengths):
    out, _ = rnn.pad_packed_sequence(net.rnn(net.packed(x, lengths))[0], padding_value=0.5, total_length=5)
    return out.cos().mean()


def with_a_state(net, x, lengths):
    size = net.rnn.num_layers * (1 + net.rnn.bidirectional), x.shape[0], net.rnn.proj_size or 3
    state = net.rnn.weight_ih_l0.sum() * torch.linspace(-1, 1, size[0] * size[1] * size[2]).double().reshape(size)
    cell = net.rnn.weight_hh_l0.mean().expand(*size[:2], 3)
    _, last = net.rnn(net.packed(x, lengths), (state, cell) if isinstance(net.rnn, nn.LSTM) else state)
    return sum(each.sin().mean() for each in (last if isinstance(last, tuple) else (last,)))


def by_sequences(net, x, lengths):
    sequences = [row[:n] for row, n in zip(x, lengths, strict=True)]
    out = net.rnn(rnn.pack_sequence(sequences, enforce_sorted=False))[0]
    return sum(each.square().sum() for each in rnn.unpack_sequence(out))


def batch(rows=3, steps=3):
    return torch.randn(rows, steps, 2, generator=torch.Generator().manual_seed(1)).double()


def made(net, loss_of):
    torch.manual_seed(0)
    loss, params = functional_loss(net().double(), loss_of=loss_of)
    return capture(loss, strict=True), params, tree.randn_like(params, generator=torch.Generator().manual_seed(2))


def assert_right(captured, params, d, *args):
    truth, hd = double_backward(captured.loss, params, d, *args)
    step = grad_and_quadratic(captured, lambda grads: d)(params, *args)
    leaves = tree.map(lambda leaf: leaf.clone().requires_grad_(), params)
    grads = torch.autograd.grad(captured.loss(leaves, *args), tree.leaves(leaves))
    for got, expected in zip(tree.leaves(step.grads), grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    for found in (quadratic_along(captured)(params, d, *args), step.quadratic):
        assert_close(found.value, truth.value, 1e-12)
        assert_close(found.slope, truth.slope, 1e-12, 1 + abs(truth.slope))
        assert_close(found.curvature, truth.curvature, 1e-11, tree.norm(d) * hd)


@pytest.mark.parametrize("name", a_few_of(NETS, ["relu"]))
def test_every_recurrent_net_is_exact_on_packed_sequences(name):
    assert_right(*made(lambda: Net(name), padded), batch(), torch.tensor([3, 3, 1]))


WAYS = {
    "data": (lambda: Net("gru"), by_data),
    "not sorted": (lambda: Net("tanh", sort=True), padded),
    "steps first": (lambda: Net("lstm", sort=True, batch_first=False), steps_first),
    "padded further": (lambda: Net("relu", sort=True), padded_further),
    "state given, lstm": (lambda: Net("lstm, deep, both ways, projected", sort=True), with_a_state),
    "state given": (lambda: Net("gru", sort=True), with_a_state),
    "sequences": (lambda: Net("relu", batch_first=False), by_sequences),
}


@pytest.mark.parametrize("name", a_few_of(WAYS, ("not sorted", "sequences")))
def test_every_way_to_pack_and_to_read_is_exact(name):
    lengths = torch.tensor([2, 3, 1]) if name != "data" else torch.tensor([3, 3, 1])
    assert_right(*made(*WAYS[name]), batch(), lengths)


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_other_lengths_are_another_program_and_the_same_ones_are_not(kind):
    captured, params, d = made(lambda: Net("tanh"), by_data)
    for lengths in ([3, 2], [1, 1], [3, 2]):
        assert_right(captured, params, d, batch(2), kind(lengths))
    assert captured.captured == 2


def test_another_order_of_the_same_lengths_is_the_same_program():
    captured, params, d = made(lambda: Net("tanh", sort=True), padded)
    for lengths in ([3, 2], [2, 3]):
        assert_right(captured, params, d, batch(2), torch.tensor(lengths))
    assert captured.captured == 1


def test_a_packed_sequence_is_an_argument_like_any_other():
    captured, params, d = made(lambda: nn.RNN(2, 3, batch_first=True), lambda net, x: net(x)[0].data.exp().mean())
    for lengths in ([3, 2], [2, 2]):
        assert_right(captured, params, d, rnn.pack_padded_sequence(batch(2), lengths, batch_first=True))


def test_under_vmap_examples_of_other_lengths_are_refused():
    captured, params, d = made(lambda: Net("tanh", sort=True), by_data)
    quadratic = torch.func.vmap(lambda x, n: quadratic_along(captured)(params, d, x, n).curvature)
    both, lengths = torch.stack([batch(2), batch(2) + 1]), torch.tensor([[3, 2], [2, 3]])
    truth = [double_backward(captured.loss, params, d, x, n)[0].curvature for x, n in zip(both, lengths, strict=True)]
    torch.testing.assert_close(quadratic(both, lengths), torch.stack(truth), rtol=1e-11, atol=0)
    with pytest.raises(CaptureError, match="differ in a number"):
        quadratic(both, torch.tensor([[3, 2], [2, 2]]))


@pytest.mark.parametrize("lengths", [[0, 2], [4, 2], [2, 3], [3]])
def test_lengths_that_pytorch_refuses_are_its_own_error(lengths):
    captured, params, d = made(lambda: Net("tanh"), by_data)
    with pytest.raises(RuntimeError) as own:
        captured.loss(params, batch(2), torch.tensor(lengths))
    with pytest.raises(RuntimeError) as found:
        quadratic_along(captured)(params, d, batch(2), torch.tensor(lengths))
    assert str(found.value) == str(own.value)
