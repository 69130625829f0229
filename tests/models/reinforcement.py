"""Reinforcement learning and preferences."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, noise_like, of_field
from tests.models.hugging_face import tiny
from tests.models.layers import mlp

architecture = of_field("Reinforcement learning")
N = 5


class Agent(nn.Module):
    """A policy, a value and a target of it that is not trained."""

    def __init__(self, actions=3, value_in=4):
        super().__init__()
        self.policy, self.value, self.target = mlp(4, 6, actions, act=nn.Tanh), mlp(value_in, 6, 1), mlp(value_in, 6, 1)
        self.target.requires_grad_(False)


def seen() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States, discrete actions, returns."""
    return torch.randn(N, 4), torch.randint(3, (N,)), torch.randn(N)


@architecture("REINFORCE", "Categorical.log_prob, validated arguments")
def reinforce():
    """Williams, 1992."""

    def loss_of(net, s, a, returns):
        return -(torch.distributions.Categorical(logits=net.policy(s)).log_prob(a) * returns).mean()

    return Example(Agent(), seen(), loss_of)


@architecture("A2C", "advantages without gradient, entropy")
def a2c():
    """Mnih et al., 2016."""

    def loss_of(net, s, a, returns):
        v = net.value(s)[:, 0]
        log_p = net.policy(s).log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1).mean()
        chosen = log_p.gather(1, a[:, None])[:, 0]
        return -(chosen * (returns - v).detach()).mean() + 0.5 * F.mse_loss(v, returns) - 0.01 * entropy

    return Example(Agent(), seen(), loss_of)


@architecture("PPO", "clipped ratio, Categorical with validation, entropy")
def ppo():
    """Schulman et al., 2017."""

    def loss_of(net, s, a, returns, old, advantage):
        policy = torch.distributions.Categorical(logits=net.policy(s))
        ratio = (policy.log_prob(a) - old).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        return -clipped + 0.5 * F.mse_loss(net.value(s)[:, 0], returns) - 0.01 * policy.entropy().mean()

    return Example(Agent(), (*seen(), torch.randn(N) - 1, torch.randn(N)), loss_of)


@architecture("PPO, continuous actions", "Normal with validation, a learned scale")
def ppo_continuous():
    """The same with a Gaussian policy."""

    class Gaussian(Agent):
        def __init__(self):
            super().__init__(2)
            self.log_scale = nn.Parameter(torch.zeros(2))

    def loss_of(net, s, a, old, advantage):
        mean = net.policy(s)
        policy = torch.distributions.Independent(
            torch.distributions.Normal(mean, net.log_scale.exp().expand_as(mean)), 1
        )
        ratio = (policy.log_prob(a) - old).exp()
        return -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean() - 0.01 * policy.entropy().mean()

    return Example(Gaussian(), (torch.randn(N, 4), torch.randn(N, 2), torch.randn(N) - 3, torch.randn(N)), loss_of)


class Q(nn.Module):
    """Action values, and a target net that is not trained."""

    def __init__(self, make):
        super().__init__()
        self.net, self.target = make(), make().requires_grad_(False)


def transitions() -> tuple[torch.Tensor, ...]:
    """States, actions, rewards, next states, ends."""
    return torch.randn(N, 4), torch.randint(3, (N,)), torch.randn(N), torch.randn(N, 4), (torch.rand(N) < 0.3).float()


@architecture("DQN", "Huber loss, a target net without gradient")
def dqn():
    """Mnih et al., 2015."""

    def loss_of(net, s, a, r, after, end):
        with torch.no_grad():
            goal = r + 0.9 * (1 - end) * net.target(after).amax(1)
        return F.smooth_l1_loss(net.net(s).gather(1, a[:, None])[:, 0], goal)

    return Example(Q(lambda: mlp(4, 6, 3, act=nn.ReLU)), transitions(), loss_of)


@architecture("Double duelling DQN", "weighted errors")
def duelling():
    """van Hasselt et al., 2016; Wang et al., 2016; Schaul et al., 2016."""

    class Duelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.value, self.advantage = nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(6, 3)

        def forward(self, s):
            h = torch.tanh(self.body(s))
            a = self.advantage(h)
            return self.value(h) + a - a.mean(1, keepdim=True)

    def loss_of(net, s, a, r, after, end, weight):
        with torch.no_grad():
            best = net.net(after).argmax(1, keepdim=True)
            goal = r + 0.9 * (1 - end) * net.target(after).gather(1, best)[:, 0]
        return (weight * (net.net(s).gather(1, a[:, None])[:, 0] - goal).square()).mean()

    return Example(Q(Duelling), (*transitions(), torch.rand(N)), loss_of)


@architecture("C51, distributional", "cross entropy of projected atoms")
def c51():
    """Bellemare et al., 2017."""

    def loss_of(net, s, a, r, after, end, atoms=5):
        support = torch.linspace(-2, 2, atoms).to(s)
        with torch.no_grad():
            p = net.target(after).unflatten(1, (3, atoms)).softmax(-1)
            best = (p * support).sum(-1).argmax(1)
            place = ((r[:, None] + 0.9 * (1 - end)[:, None] * support).clamp(-2, 2) + 2) / (4 / (atoms - 1))
            near = (1 - (place[..., None] - torch.arange(atoms)).abs()).clamp(min=0)
            goal = torch.einsum("ba,bak->bk", p[torch.arange(len(s)), best], near)
        log_p = net.net(s).unflatten(1, (3, atoms))[torch.arange(len(s)), a].log_softmax(-1)
        return -(goal * log_p).sum(-1).mean()

    return Example(Q(lambda: mlp(4, 6, 15)), transitions(), loss_of)


@architecture("Quantile DQN", "quantile Huber loss")
def quantile():
    """Dabney et al., 2018."""

    def loss_of(net, s, a, r, after, end, quantiles=4):
        rows = torch.arange(len(s))
        with torch.no_grad():
            later = net.target(after).unflatten(1, (3, quantiles))
            goal = r[:, None] + 0.9 * (1 - end)[:, None] * later[rows, later.mean(-1).argmax(1)]
        error = goal[:, None] - net.net(s).unflatten(1, (3, quantiles))[rows, a][..., None]
        level = (torch.arange(quantiles).to(s) + 0.5) / quantiles
        huber = torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5)
        return ((level[:, None] - (error.detach() < 0).to(s)).abs() * huber).sum(1).mean()

    return Example(Q(lambda: mlp(4, 6, 12)), transitions(), loss_of)


@architecture("SAC, actor", "squashed Gaussian, the smaller of two critics")
def sac():
    """Haarnoja et al., 2018."""

    def loss_of(net, s):
        mean, log_scale = net.policy(s).chunk(2, 1)
        log_scale = log_scale.clamp(-5, 2)
        e = noise_like(mean)
        raw = mean + log_scale.exp() * e
        log_p = (-e.square() / 2 - log_scale - 2 * (0.6931471805599453 - raw - F.softplus(-2 * raw))).sum(1)
        sa = torch.cat([s, torch.tanh(raw)], 1)
        return (0.2 * log_p - torch.minimum(net.value(sa), net.target(sa))[:, 0]).mean()

    return Example(Agent(4, 6), (torch.randn(N, 4),), loss_of)


@architecture("TD3, critics", "two critics, smoothed targets without gradient")
def td3():
    """Fujimoto et al., 2018."""

    def loss_of(net, s, a, r, after):
        with torch.no_grad():
            action = (torch.tanh(net.policy(after)) + (0.2 * noise_like(a)).clamp(-0.5, 0.5)).clamp(-1, 1)
            goal = r + 0.9 * net.target(torch.cat([after, action], 1))[:, 0]
        return F.mse_loss(net.value(torch.cat([s, a], 1))[:, 0], goal)

    return Example(Agent(2, 6), (torch.randn(N, 4), torch.rand(N, 2), torch.randn(N), torch.randn(N, 4)), loss_of)


@architecture("World model, RSSM", "a recurrent latent model, balanced divergences")
def world_model():
    """Hafner et al., 2020."""

    class World(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.prior, self.posterior, self.decode = (
                nn.GRUCell(2, 4),
                mlp(4, 5, 4),
                mlp(7, 5, 4),
                mlp(6, 5, 3),
            )

    def loss_of(net, seen):
        h = torch.zeros(len(seen), 4).to(seen)
        z, total = torch.zeros(len(seen), 2).to(seen), 0
        for x in seen.unbind(1):
            h = net.cell(z, h)
            (m0, s0), (m1, s1) = net.prior(h).chunk(2, 1), net.posterior(torch.cat([h, x], 1)).chunk(2, 1)
            z = m1 + s1.exp() * noise_like(m1)
            kl = s0 - s1 + ((2 * s1).exp() + (m1 - m0).square()) / (2 * (2 * s0).exp()) - 0.5
            total = total + F.mse_loss(net.decode(torch.cat([h, z], 1)), x) + kl.sum(1).mean()
        return total

    return Example(World(), (torch.randn(2, 3, 3),), loss_of)


@architecture("Decision transformer", "actions of a padded trajectory")
def decision_transformer():
    """Chen et al., 2021."""
    model = tiny(
        "decision_transformer",
        "DecisionTransformerModel",
        state_dim=3,
        act_dim=2,
        hidden_size=8,
        max_ep_len=10,
        n_layer=1,
        n_head=2,
        n_positions=32,
    )
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    batch = {
        "states": torch.randn(2, 4, 3),
        "actions": torch.randn(2, 4, 2),
        "rewards": torch.randn(2, 4, 1),
        "returns_to_go": torch.randn(2, 4, 1),
        "timesteps": torch.arange(4).expand(2, -1).contiguous(),
        "attention_mask": mask,
    }

    def loss_of(net, actions, attention_mask, **batch):
        got = net(actions=actions, attention_mask=attention_mask, **batch).action_preds
        return ((got - actions).square().mean(-1) * attention_mask).sum() / attention_mask.sum()

    return Example(model, batch, loss_of)


class Writer(nn.Module):
    """A small causal language model, and a frozen reference."""

    def __init__(self):
        super().__init__()
        self.net, self.reference = (
            nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 7)) for _ in range(2)
        )
        self.reference.requires_grad_(False)

    def log_p(self, net, tokens):
        """Of each token after the first."""
        return net(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]


@architecture("DPO", "preferred and refused answers, a frozen reference")
def dpo():
    """Rafailov et al., 2023."""

    def loss_of(net, better, worse):
        margins = [(net.log_p(net.net, x) - net.log_p(net.reference, x)).sum(1) for x in (better, worse)]
        return -F.logsigmoid(0.5 * (margins[0] - margins[1])).mean()

    return Example(Writer(), (torch.randint(7, (3, 5)), torch.randint(7, (3, 5))), loss_of)


@architecture("GRPO", "a group's advantages, clipped, with a divergence")
def grpo():
    """Shao et al., 2024."""

    def loss_of(net, tokens, rewards, old):
        advantage = ((rewards - rewards.mean()) / (rewards.std() + 1e-4))[:, None]
        log_p, reference = net.log_p(net.net, tokens), net.log_p(net.reference, tokens)
        ratio = (log_p - old).exp()
        apart = (reference - log_p).exp() - (reference - log_p) - 1
        return -(torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) - 0.04 * apart).mean()

    return Example(Writer(), (torch.randint(7, (4, 5)), torch.randn(4), torch.randn(4, 4) * 0.3 - 2), loss_of)


@architecture("Reward model", "Bradley-Terry on pairs")
def reward_model():
    """Christiano et al., 2017."""

    def loss_of(net, better, worse):
        return -F.logsigmoid(net(better).mean(1) - net(worse).mean(1)).mean()

    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    return Example(net, (torch.randint(7, (3, 5)), torch.randint(7, (3, 5))), loss_of)
