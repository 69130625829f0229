"""Likelihoods and structured losses."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, noise_like, of_field
from tests.models.layers import mlp

architecture = of_field("Probabilistic, structured, meta-learning")


class Kernel(nn.Module):
    """A squared-exponential kernel of learned features, and a noise."""

    def __init__(self, features=None):
        super().__init__()
        self.features = features or nn.Identity()
        self.log_scale, self.log_length, self.log_noise = (nn.Parameter(torch.zeros(())) for _ in range(3))

    def forward(self, a, b):
        a, b = self.features(a), self.features(b)
        apart = (a[:, None] - b).square().sum(-1)
        return torch.exp(self.log_scale - apart * torch.exp(-2 * self.log_length) / 2)


def observed() -> tuple[torch.Tensor, torch.Tensor]:
    """Six points in the plane and their values."""
    return torch.randn(6, 2), torch.randn(6)


@architecture("Gaussian process", "marginal likelihood by Cholesky")
def gaussian_process():
    """Rasmussen & Williams, 2006."""

    def loss_of(net, x, y):
        chol = torch.linalg.cholesky(net(x, x) + (net.log_noise.exp() + 1e-4) * torch.eye(len(x)).to(x))
        z = torch.linalg.solve_triangular(chol, y[:, None], upper=False)
        return z.square().sum() / 2 + chol.diagonal().log().sum() + len(x) / 2 * math.log(2 * math.pi)

    return Example(Kernel(), observed(), loss_of)


@architecture("Gaussian process by torch.distributions", "MultivariateNormal.log_prob, validated arguments")
def gaussian_process_by_distributions():
    """The same, as it is often written."""

    def loss_of(net, x, y):
        covariance = net(x, x) + (net.log_noise.exp() + 1e-4) * torch.eye(len(x)).to(x)
        return -torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)

    return Example(Kernel(), observed(), loss_of)


@architecture("Deep kernel learning", "marginal likelihood by solve and slogdet")
def deep_kernel():
    """Wilson et al., 2016."""

    def loss_of(net, x, y):
        k = net(x, x) + (net.log_noise.exp() + 1e-2) * torch.eye(len(x)).to(x)
        return (y @ torch.linalg.solve(k, y) + torch.linalg.slogdet(k)[1]) / 2

    return Example(Kernel(mlp(2, 5, 3, act=nn.Tanh)), observed(), loss_of)


@architecture("Sparse Gaussian process", "evidence lower bound of inducing points")
def sparse_gaussian_process():
    """Hensman et al., 2013."""

    class Inducing(Kernel):
        def __init__(self):
            super().__init__()
            self.at, self.mean, self.root = (
                nn.Parameter(torch.randn(3, 2)),
                nn.Parameter(torch.randn(3)),
                nn.Parameter(torch.eye(3)),
            )

    def loss_of(net, x, y):
        eye = torch.eye(3).to(x)
        chol = torch.linalg.cholesky(net(net.at, net.at) + 1e-3 * eye)
        a = torch.linalg.solve_triangular(chol, net(net.at, x), upper=False)
        root = net.root.tril()
        mean = a.T @ net.mean
        variance = net.log_scale.exp() - a.square().sum(0) + (root.T @ a).square().sum(0)
        noise = net.log_noise.exp() + 1e-3
        fit = ((y - mean).square() + variance) / noise + noise.log()
        kl = root.square().sum() + net.mean.square().sum() - 3 - 2 * root.diagonal().abs().log().sum()
        return (fit.sum() + kl) / 2

    return Example(Inducing(), observed(), loss_of)


@architecture("Mixture density net", "negative log-likelihood")
def mixture_density():
    """Bishop, 1994."""

    def loss_of(net, x, y):
        weight, mean, log_scale = net(x).chunk(3, 1)
        log_p = weight.log_softmax(1) - log_scale - ((y - mean) * torch.exp(-log_scale)).square() / 2
        return -log_p.logsumexp(1).mean()

    return Example(mlp(2, 6, 9), (torch.randn(5, 2), torch.randn(5, 1)), loss_of)


@architecture("Mixture by torch.distributions", "MixtureSameFamily.log_prob, validated arguments")
def mixture_by_distributions():
    """The same by MixtureSameFamily."""
    from torch import distributions as D

    def loss_of(net, x, y):
        weight, mean, log_scale = net(x).chunk(3, 1)
        return (
            -D.MixtureSameFamily(D.Categorical(logits=weight), D.Normal(mean, log_scale.exp())).log_prob(y[:, 0]).mean()
        )

    return Example(mlp(2, 6, 9), (torch.randn(5, 2), torch.randn(5, 1)), loss_of)


@architecture("Bayes by backprop", "evidence lower bound of weights")
def bayes_by_backprop():
    """Blundell et al., 2015."""

    class Bayesian(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.ParameterList(torch.randn(s) for s in ((5, 2), (1, 5)))
            self.rho = nn.ParameterList(torch.full(s, -2.0) for s in ((5, 2), (1, 5)))

        def forward(self, x):
            kl = 0
            for i, (mean, rho) in enumerate(zip(self.mean, self.rho, strict=True)):
                scale = F.softplus(rho)
                x = F.linear(torch.tanh(x) if i else x, mean + scale * noise_like(mean))
                kl = kl + (scale.square() + mean.square() - 1 - 2 * scale.log()).sum() / 2
            return x, kl

    def loss_of(net, x, y):
        out, kl = net(x)
        return F.mse_loss(out[:, 0], y) + kl / 100

    return Example(Bayesian(), observed(), loss_of)


@architecture("Conditional random field", "linear chain, masked")
def crf():
    """Lafferty et al., 2001; on a BiLSTM (Huang et al., 2015)."""

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.emit, self.step = (
                nn.LSTM(3, 3, batch_first=True, bidirectional=True),
                nn.Linear(6, 4),
                nn.Parameter(torch.randn(4, 4)),
            )

        def forward(self, x, tags, mask):
            e = self.emit(self.rnn(x)[0])
            score = e.gather(2, tags[..., None])[..., 0]
            total = score[:, 0] + ((score[:, 1:] + self.step[tags[:, :-1], tags[:, 1:]]) * mask[:, 1:]).sum(1)
            alpha = e[:, 0]
            for t in range(1, x.shape[1]):
                new = torch.logsumexp(alpha[:, :, None] + self.step, 1) + e[:, t]
                alpha = torch.where(mask[:, t, None], new, alpha)
            return (alpha.logsumexp(1) - total).mean()

    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return Example(Chain(), (torch.randn(2, 5, 3), torch.randint(4, (2, 5)), mask))


@architecture("Hidden Markov model", "forward algorithm")
def hidden_markov():
    """Rabiner, 1989: the gradient of its likelihood is Baum-Welch's expected counts."""

    class Markov(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.step, self.emit = (
                nn.Parameter(torch.randn(3)),
                nn.Parameter(torch.randn(3, 3)),
                nn.Parameter(torch.randn(3, 4)),
            )

        def forward(self, words):
            step, emit = self.step.log_softmax(1), self.emit.log_softmax(1)
            alpha = self.start.log_softmax(0) + emit[:, words[:, 0]].T
            for w in words[:, 1:].unbind(1):
                alpha = (alpha[:, :, None] + step).logsumexp(1) + emit[:, w].T
            return -alpha.logsumexp(1).mean()

    return Example(Markov(), (torch.randint(4, (3, 6)),))


@architecture("Sinkhorn divergence", "entropic transport, twenty iterations")
def sinkhorn():
    """Cuturi, 2013."""

    def loss_of(net, x, y):
        cost = (net(x)[:, None] - y).square().sum(-1)
        f, g, eps = torch.zeros(len(x)).to(x), torch.zeros(len(y)).to(x), 0.5
        for _ in range(20):
            f = -eps * torch.logsumexp((g - cost) / eps - math.log(len(y)), 1)
            g = -eps * torch.logsumexp((f[:, None] - cost) / eps - math.log(len(x)), 0)
        return f.mean() + g.mean()

    return Example(mlp(2, 5, 2), (torch.randn(5, 2), torch.randn(6, 2)), loss_of)


@architecture("Soft dynamic time warping", "the recursion in primitives")
def soft_dtw():
    """Cuturi & Blondel, 2017."""

    def loss_of(net, x, y):
        cost = (net(x)[:, None] - y).square().sum(-1)
        far = torch.full((), 1e3).to(x)
        row = [torch.zeros(()).to(x)] + [far] * len(y)
        for i in range(len(x)):
            new = [far]
            for j in range(len(y)):
                new.append(cost[i, j] - torch.stack([-row[j], -row[j + 1], -new[j]]).logsumexp(0))
            row = new
        return row[-1]

    return Example(mlp(2, 5, 2), (torch.randn(4, 2), torch.randn(4, 2)), loss_of)


@architecture("Cox's proportional hazards", "partial likelihood, censored")
def cox():
    """Cox, 1972; Katzman et al., 2018."""

    def loss_of(net, x, died):
        risk = net(x)[:, 0]  # in the order of decreasing time
        return -((risk - risk.logcumsumexp(0)) * died).sum() / died.sum()

    return Example(mlp(3, 5, 1), (torch.randn(6, 3), torch.tensor([1.0, 0, 1, 1, 0, 1])), loss_of)
