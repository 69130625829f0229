"""Measured is what was trained, in loops as people write them; where they are made to differ, the record says so."""

import logging
import random

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from alpha_func import Observer
from tests.observer.loops import Scene, observed, trained_alone


def sgd(net, lr=0.1, **options):
    return torch.optim.SGD(net.parameters(), lr=lr, **options)


def adam(net):
    return torch.optim.AdamW(net.parameters(), lr=1e-2)


def supervised(net, criterion, batch, *, optimizer=sgd, **options):
    """The loop of most examples."""

    def step(scene, observer, batch):
        (opt,) = scene.optimizers
        x, y = batch
        opt.zero_grad()
        loss = criterion(scene.nets["net"](x), y)
        loss.backward()
        if observer:
            observer.batch(x, y)
        opt.step()

    return Scene(
        {"net": net},
        [optimizer(net)],
        lambda s: Observer(s.nets["net"], criterion, s.optimizers[0], **options),
        step,
        lambda nets, batch: criterion(nets["net"](batch[0]), batch[1]),
        batch,
    )


def regression(size=8):
    return lambda: (torch.randn(size, 4), torch.randn(size, 3))


def classes(*shape, of=3):
    return lambda: (torch.randn(6, *shape), torch.randint(of, (6,)))


def mlp(*middle):
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), *middle, nn.Linear(8, 3))


def mnist():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.25), nn.Flatten(), nn.Linear(27, 3),
        nn.LogSoftmax(1),
    )  # fmt: skip
    return supervised(
        net, F.nll_loss, classes(1, 8, 8), optimizer=lambda n: torch.optim.Adadelta(n.parameters(), lr=1.0)
    )


def cifar():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 3)

        def forward(self, x):
            return self.head((x + torch.relu(self.norm(self.conv(x)))).mean((2, 3)))

    def optimizer(net):
        return sgd(net, momentum=0.9, weight_decay=5e-4, nesterov=True)

    return supervised(Block(), nn.CrossEntropyLoss(label_smoothing=0.1), classes(3, 6, 6), optimizer=optimizer)


def vae():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)

        def forward(self, x):
            mu, logvar = self.encoder(x).chunk(2, 1)
            z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
            return torch.sigmoid(self.decoder(z)), mu, logvar

    def loss_of(model, x):
        recon, mu, logvar = model(x)
        return F.binary_cross_entropy(recon, x, reduction="sum") - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()

    return by_function(
        VAE(), loss_of, lambda: (torch.rand(5, 6),), optimizer=lambda n: torch.optim.Adam(n.parameters())
    )


def by_function(net, loss_of, batch, *, optimizer=sgd, told=False):
    """A loop whose loss is a function of the model and the batch."""

    def step(scene, observer, batch):
        (opt,) = scene.optimizers
        loss = loss_of(scene.nets["net"], *batch)
        opt.zero_grad(set_to_none=False)
        loss.backward()
        if observer:
            observer.batch(*batch, loss=loss if told else None)
        opt.step()

    return Scene(
        {"net": net},
        [optimizer(net)],
        lambda s: Observer(s.nets["net"], None, s.optimizers[0], loss_of=loss_of),
        step,
        lambda nets, batch: loss_of(nets["net"], *batch),
        batch,
    )


class GPT(nn.Module):
    """As nanoGPT's: logits and loss."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(7, 8), nn.Parameter(0.1 * torch.randn(5, 8))
        self.attend, self.norm = nn.Linear(8, 24), nn.LayerNorm(8)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 7, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x, y=None):
        h = self.tokens(x) + self.positions
        q, k, v = self.attend(self.norm(h)).unflatten(-1, (3, 2, 4)).movedim(2, 0).transpose(-2, -3)
        h = h + self.drop(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-2, -3).flatten(-2))
        logits = self.head(h)
        return logits, None if y is None else F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-1)


def tokens():
    return torch.randint(7, (3, 5)), torch.randint(-1, 7, (3, 5))


def nano_gpt():
    return by_function(
        GPT(),
        lambda model, x, y: model(x, y)[1],
        tokens,
        optimizer=lambda n: torch.optim.AdamW(n.parameters(), lr=1e-2),
    )


def word_language_model():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn, self.head = nn.Embedding(7, 4), nn.GRU(4, 5), nn.Linear(5, 7)

        def forward(self, x, hidden):
            out, hidden = self.rnn(self.embed(x), hidden)
            return self.head(out), hidden

    def loss_of(model, x, hidden, y):
        return F.cross_entropy(model(x, hidden)[0].flatten(0, 1), y.flatten())

    scene = by_function(Words(), loss_of, lambda: None)
    hidden = [torch.zeros(1, 3, 5)]

    def batch():
        x, y = torch.randint(7, (4, 3)), torch.randint(7, (4, 3))
        with torch.no_grad():
            before, hidden[0] = hidden[0], scene.nets["net"](x, hidden[0])[1]
        return x, before, y

    scene.batch = batch
    return scene


def gcn():
    class GCN(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False)

        def forward(self, x, adjacency):
            h = F.dropout(torch.relu(adjacency @ self.a(x)), 0.5, self.training)
            return F.log_softmax(adjacency @ self.b(h), 1)

    x, adjacency, labels = torch.randn(7, 4), torch.rand(7, 7) / 7, torch.randint(3, (7,))
    chosen = torch.tensor([0, 2, 3, 5])

    def loss_of(model, x, adjacency, labels, chosen):
        return F.nll_loss(model(x, adjacency)[chosen], labels[chosen])

    return by_function(GCN(), loss_of, lambda: (x, adjacency, labels, chosen), told=True)


def ppo():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.actor, self.critic = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)

    def loss_of(model, states, actions, old, returns):
        h = torch.tanh(model.body(states))
        chosen = torch.distributions.Categorical(logits=model.actor(h))
        value = model.critic(h)[:, 0]
        ratio, gain = (chosen.log_prob(actions) - old).exp(), (returns - value).detach()
        surrogate = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        return -surrogate + 0.5 * F.mse_loss(value, returns) - 0.01 * chosen.entropy().mean()

    def batch():
        return torch.randn(8, 4), torch.randint(2, (8,)), -torch.rand(8), torch.randn(8)

    return by_function(Policy(), loss_of, batch, optimizer=adam)


def dcgan():
    """The discriminator's label tensor is refilled between the two backward passes of its step."""
    net = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Sigmoid(), nn.Flatten(0))
    criterion = nn.BCELoss()

    def step(scene, observer, batch):
        (opt,), net = scene.optimizers, scene.nets["net"]
        real, fake = batch
        opt.zero_grad()
        label = torch.ones(8)
        criterion(net(real), label).backward()
        if observer:
            observer.batch(real, label)
        label.fill_(0.0)
        criterion(net(fake), label).backward()
        if observer:
            observer.batch(fake, label)
        opt.step()

    def trained(nets, batch):
        real, fake = batch
        return criterion(nets["net"](real), torch.ones(8)) + criterion(nets["net"](fake), torch.zeros(8))

    return Scene(
        {"net": net},
        [torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.5, 0.999))],
        lambda s: Observer(s.nets["net"], criterion, s.optimizers[0]),
        step,
        trained,
        lambda: (torch.randn(8, 4), torch.randn(8, 4) + 1),
    )


def generator_of_a_gan():
    """A criterion that calls another network."""
    critic = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    scene = by_function(
        nn.Linear(3, 4), lambda model, z: F.softplus(-critic(model(z))).mean(), lambda: (torch.randn(8, 3),)
    )
    scene.nets["critic"] = critic
    return scene


def lbfgs():
    net, criterion = mlp(), nn.MSELoss()

    def step(scene, observer, batch):
        (opt,), (x, y) = scene.optimizers, batch

        def closure():
            opt.zero_grad()
            loss = criterion(scene.nets["net"](x), y)
            loss.backward()
            if observer:
                observer.batch(x, y)
            return loss

        opt.step(closure)

    return Scene(
        {"net": net},
        [torch.optim.LBFGS(net.parameters(), lr=0.2, max_iter=3)],
        lambda s: Observer(s.nets["net"], criterion, s.optimizers[0]),
        step,
        lambda nets, batch: criterion(nets["net"](batch[0]), batch[1]),
        regression(),
    )


def muon():
    """Muon takes matrices alone: two optimizers, one step."""
    net, criterion = mlp(), nn.MSELoss()

    def step(scene, observer, batch):
        x, y = batch
        loss = criterion(scene.nets["net"](x), y)
        for opt in scene.optimizers:
            opt.zero_grad()
        loss.backward()
        if observer:
            observer.batch(x, y)
        for opt in scene.optimizers:
            opt.step()

    return Scene(
        {"net": net},
        [
            torch.optim.Muon([p for p in net.parameters() if p.ndim == 2], lr=0.05),
            torch.optim.AdamW([p for p in net.parameters() if p.ndim < 2], lr=0.01),
        ],
        lambda s: Observer(s.nets["net"], criterion, s.optimizers),
        step,
        lambda nets, batch: criterion(nets["net"](batch[0]), batch[1]),
        regression(),
    )


def accumulated(weights, *, told=False, abandoned=False):
    """Several batches a step, weighted by the loop; before the last step one that came to nothing."""

    def make():
        net, criterion = mlp(nn.Dropout(0.3)), nn.MSELoss()

        def step(scene, observer, batches):
            (opt,), net = scene.optimizers, scene.nets["net"]
            opt.zero_grad()
            if abandoned:
                x, y = torch.ones(8, 4), torch.ones(8, 3)
                criterion(net(x), y).backward()
                if observer:
                    observer.batch(x, y)
                opt.zero_grad()
            for (x, y), weight in zip(batches, weights, strict=True):
                loss = weight * criterion(net(x), y)
                loss.backward()
                if observer:
                    observer.batch(x, y, loss=loss if told else None)
            opt.step()

        def trained(nets, batches):
            if abandoned:
                nets["net"](torch.ones(8, 4))
            return sum(w * criterion(nets["net"](x), y) for (x, y), w in zip(batches, weights, strict=True))

        return Scene(
            {"net": net},
            [sgd(net)],
            lambda s: Observer(s.nets["net"], criterion, s.optimizers[0]),
            step,
            trained,
            lambda: [(torch.randn(8, 4), torch.randn(8, 3)) for _ in weights],
        )

    return make


class Queue(nn.Module):
    """A buffer that the forward reads and then writes, as MoCo's queue."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 3)
        self.register_buffer("queue", torch.randn(6, 3))

    def forward(self, x):
        out = self.net(x)
        logits = out @ self.queue.T.clone()
        self.queue.copy_(out.detach())
        return logits[:, :3]


class Counter(nn.Module):
    """Python numbers and lists that the forward reads and then writes."""

    def __init__(self):
        super().__init__()
        self.net, self.count, self.seen = nn.Linear(4, 3), 0, [1.0]

    def forward(self, x):
        out = self.net(x) * (1 + self.count) + sum(self.seen)
        self.count += 1
        self.seen.append(float(self.count))
        return out


class LayerDrop(nn.Module):
    """Layers dropped by Python's generator, NumPy's, and one of its own."""

    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(6)), nn.Linear(4, 3)
        self.own = numpy.random.default_rng(3)

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            draw = (random.random, numpy.random.rand, self.own.random)[i % 3]
            if draw() < 0.5:
                x = torch.tanh(layer(x)) + x
        return self.head(x)


def evaluated_before_the_step():
    scene = supervised(mlp(nn.BatchNorm1d(8), nn.Dropout(0.3)), nn.MSELoss(), regression())

    def step(scene, observer, batch):
        (opt,), net, (x, y) = scene.optimizers, scene.nets["net"], batch
        net.train()
        opt.zero_grad()
        F.mse_loss(net(x), y).backward()
        if observer:
            observer.batch(x, y)
        net(torch.randn(5, 4))  # another call in train mode
        net.eval()
        net(torch.randn(5, 4))
        opt.step()

    scene.step = step
    scene.trained = lambda nets, batch: F.mse_loss(nets["net"].train()(batch[0]), batch[1])
    return scene


def batch_first():
    """``batch`` before the forward, and calls without a gradient between."""
    scene = supervised(mlp(nn.Dropout(0.3)), nn.MSELoss(), regression())

    def step(scene, observer, batch):
        (opt,), net, (x, y) = scene.optimizers, scene.nets["net"], batch
        if observer:
            observer.batch(x, y)
        loss = F.mse_loss(net(x), y)
        with torch.no_grad():
            net(x)
        opt.zero_grad()
        loss.backward()
        opt.step()

    scene.step = step
    return scene


LOOPS = {
    "mnist": mnist,
    "cifar": cifar,
    "vae": vae,
    "lbfgs": lbfgs,
    "nanoGPT": nano_gpt,
    "word language model": word_language_model,
    "gcn": gcn,
    "ppo": ppo,
    "dcgan": dcgan,
    "generator of a GAN": generator_of_a_gan,
    "muon with adamw": muon,
    "accumulated, mean": accumulated([0.25] * 4),
    "accumulated, sum": accumulated([1.0] * 3),
    "accumulated, weights": accumulated([0.2, 0.5, 0.3]),
    "accumulated, weights, told": accumulated([0.2, 0.5, 0.3], told=True),
    "abandoned": accumulated([0.5, 0.5], abandoned=True),
    "queue": lambda: supervised(Queue(), nn.CrossEntropyLoss(), classes(4)),
    # What these two change outside of tensors, a trace would change too; the observer puts it back around it.
    "counter": lambda: supervised(Counter(), nn.MSELoss(), regression(), strategy="reverse_over_reverse"),
    "spectral norm": lambda: supervised(
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)),
        nn.MSELoss(),
        regression(),
    ),
    "layer drop": lambda: supervised(LayerDrop(), nn.MSELoss(), regression(), strategy="reverse_over_reverse"),
    "evaluated before the step": evaluated_before_the_step,
    "batch before forward": batch_first,
}


@pytest.mark.parametrize("name", LOOPS)
def test_what_is_measured_is_what_was_trained(name, caplog):
    with caplog.at_level(logging.WARNING, "alpha_func"):
        found = observed(LOOPS[name])
    for i, (record, expected) in enumerate(found):
        assert record is not None, f"no record of step {i}"
        assert record.step == i
        got = (record.loss, record.slope, record.curvature)
        scale = max(abs(expected[1]), abs(expected[2]), 1e-12)
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale), f"step {i}"
        assert record.agrees, f"step {i}"
        assert record.gradient_factor == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_ends_where_it_ends_without_the_observer(name):
    (plain, rng), (watched, same_rng) = (trained_alone(LOOPS[name], observing) for observing in (False, True))
    assert torch.equal(rng[0], same_rng[0])
    assert rng[1] == same_rng[1]
    for net in plain:
        for key, value in plain[net].items():
            assert torch.equal(value, watched[net][key]), (net, key)
