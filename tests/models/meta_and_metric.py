"""Learning to learn, and losses of distances."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from tests.models import Example, noise_like, of_field
from tests.models.layers import mlp

architecture = of_field("Probabilistic, structured, meta-learning")


@architecture("MAML", "two inner steps by torch.autograd.grad")
def maml():
    """Finn et al., 2017, as it is often written: autograd.grad on the parameters, functional_call."""

    def loss_of(net, x, y, new_x, new_y):
        weights = dict(net.named_parameters())
        for _ in range(2):
            inner = F.mse_loss(functional_call(net, weights, (x,)), y)
            grads = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
            weights = {n: w - 0.1 * g for (n, w), g in zip(weights.items(), grads, strict=True)}
        return F.mse_loss(functional_call(net, weights, (new_x,)), new_y)

    return Example(mlp(1, 5, 1, act=nn.Tanh), tuple(torch.randn(4, 1) for _ in range(4)), loss_of)


@architecture("MAML, functional", "an inner step by torch.func.grad")
def maml_functional():
    """The same by torch.func, over two tasks."""

    def loss_of(net, x, y, new_x, new_y):
        weights = dict(net.named_parameters())

        def error(w, a, b):
            return F.mse_loss(functional_call(net, w, (a,)), b)

        total = 0
        for task in range(2):
            grads = torch.func.grad(error)(weights, x[task], y[task])
            total = total + error({n: w - 0.1 * grads[n] for n, w in weights.items()}, new_x[task], new_y[task])
        return total / 2

    return Example(mlp(1, 5, 1, act=nn.Tanh), tuple(torch.randn(2, 4, 1) for _ in range(4)), loss_of)


@architecture("Adversarial training, FGSM", "the disturbance by autograd.grad, a constant")
def fgsm():
    """Goodfellow et al., 2015."""

    def loss_of(net, x, y):
        at = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(net(at), y), at)
        return F.cross_entropy(net(x + 0.1 * slope.sign()), y)

    return Example(mlp(3, 6, 3), (torch.randn(5, 3), torch.randint(3, (5,))), loss_of)


@architecture("Prototypical net", "distances to class means")
def prototypes():
    """Snell et al., 2017."""

    def loss_of(net, support, query, y):
        apart = (net(query)[:, None] - net(support).mean(1)).square().sum(-1)
        return F.cross_entropy(-apart, y)

    return Example(mlp(3, 5, 4), (torch.randn(3, 2, 3), torch.randn(5, 3), torch.randint(3, (5,))), loss_of)


@architecture("Prototypical net by torch.cdist", "distances to class means, torch.cdist")
def prototypes_by_cdist():
    """The same by an operator that PyTorch differentiates once."""

    def loss_of(net, support, query, y):
        return F.cross_entropy(-torch.cdist(net(query), net(support).mean(1)).square(), y)

    return prototypes()._replace(loss_of=loss_of)


@architecture("Neural process", "a context, a latent, Gaussian likelihood")
def neural_process():
    """Garnelo et al., 2018."""

    class Process(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = mlp(2, 6, 6), mlp(4, 6, 2)

    def loss_of(net, x, y, seen):
        (m0, s0), (m1, s1) = (net.encode(torch.cat([x[:n], y[:n]], 1)).mean(0).chunk(2) for n in (seen, len(x)))
        z = (m1 + s1.exp() * noise_like(m1)).expand(len(x), -1)
        mean, log_scale = net.decode(torch.cat([x, z], 1)).chunk(2, 1)
        kl = (s0 - s1 + ((2 * s1).exp() + (m1 - m0).square()) / (2 * (2 * s0).exp())).sum()
        return (log_scale + ((y - mean) * torch.exp(-log_scale)).square() / 2).sum() + kl

    return Example(Process(), (torch.randn(6, 1), torch.randn(6, 1), 3), loss_of)


@architecture("Hypernetwork", "weights made by a net")
def hypernetwork():
    """Ha et al., 2017."""

    class Hyper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(2, 6, 13)

        def forward(self, task, x):
            w = self.net(task)
            h = torch.tanh(torch.einsum("boi,bni->bno", w[:, :8].unflatten(1, (4, 2)), x))
            return torch.einsum("bo,bno->bn", w[:, 8:12], h) + w[:, 12:]

    batch = torch.randn(3, 2), torch.randn(3, 5, 2), torch.randn(3, 5)
    return Example(Hyper(), batch, lambda net, task, x, y: F.mse_loss(net(task, x), y))


@architecture("Distillation", "a teacher without gradient, a temperature")
def distillation():
    """Hinton et al., 2015."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.student, self.teacher = mlp(3, 4, 3), mlp(3, 8, 3).requires_grad_(False)

    def loss_of(net, x, y):
        with torch.no_grad():
            soft = (net.teacher(x) / 2).softmax(-1)
        logits = net.student(x)
        return F.cross_entropy(logits, y) + 4 * F.kl_div((logits / 2).log_softmax(-1), soft, reduction="batchmean")

    return Example(Pair(), (torch.randn(5, 3), torch.randint(3, (5,))), loss_of)


@architecture("ArcFace", "angular margin")
def arcface():
    """Deng et al., 2019."""

    class Angular(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.centres = mlp(3, 6, 4), nn.Parameter(torch.randn(3, 4))

    def loss_of(net, x, y):
        cosine = F.normalize(net.body(x), dim=1) @ F.normalize(net.centres, dim=1).T
        turned = torch.cos(torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6)) + 0.3)
        return F.cross_entropy(8 * torch.where(F.one_hot(y, 3).bool(), turned, cosine), y)

    return Example(Angular(), (torch.randn(5, 3), torch.randint(3, (5,))), loss_of)


@architecture("Supervised contrastive", "positives of one class")
def supervised_contrastive():
    """Khosla et al., 2020."""

    def loss_of(net, x, y):
        z = F.normalize(net(x), dim=1)
        own = torch.eye(len(x), dtype=torch.bool)
        log_p = (z @ z.T / 0.5).masked_fill(own, -1e9).log_softmax(1)
        same = (y[:, None] == y) & ~own
        return -((log_p * same).sum(1) / same.sum(1).clamp(min=1)).mean()

    return Example(mlp(3, 6, 4), (torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])), loss_of)


@architecture("Triplet net, hardest negatives", "margin of the nearest of another class")
def triplets():
    """Schroff et al., 2015."""

    def loss_of(net, x, y):
        z = net(x)
        apart = ((z[:, None] - z).square().sum(-1) + 1e-6).sqrt()
        same = y[:, None] == y
        far = apart.masked_fill(~same, -torch.inf).amax(1)
        near = apart.masked_fill(same, torch.inf).amin(1)
        return F.softplus(far - near).mean()

    return Example(mlp(3, 6, 4), (torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])), loss_of)


@architecture("Neural Turing machine", "content addressing, a memory written step by step")
def turing():
    """Graves et al., 2014."""

    class Machine(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.key, self.write, self.out = (
                nn.LSTMCell(5, 4),
                nn.Linear(4, 3),
                nn.Linear(4, 3),
                nn.Linear(7, 2),
            )

        def forward(self, x):
            n = len(x)
            memory, read = (
                torch.full((n, 4, 3), 0.1).to(x) + torch.arange(4).to(x)[:, None] / 10,
                torch.zeros(n, 3).to(x),
            )
            h, c = torch.zeros(n, 4).to(x), torch.zeros(n, 4).to(x)
            for step in x.unbind(1):
                h, c = self.cell(torch.cat([step, read], 1), (h, c))
                weights = F.cosine_similarity(self.key(h)[:, None], memory, dim=2).softmax(1)[..., None]
                memory = memory * (1 - 0.5 * weights) + weights * torch.tanh(self.write(h))[:, None]
                read = (weights * memory).sum(1)
            return self.out(torch.cat([h, read], 1))

    return Example(Machine(), (torch.randn(2, 4, 2), torch.randn(2, 2)), lambda net, x, y: F.mse_loss(net(x), y))
