"""Nets on molecules and sets."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.graphs import NODES, SOURCE, TARGET, gathered

architecture = of_field("Graphs and sets")


@architecture("EGNN", "coordinates and a graph's number")
def egnn():
    """Satorras et al., 2021: equivariant to rotations."""

    class Equivariant(nn.Module):
        def __init__(self):
            super().__init__()
            self.edge, self.node, self.move = (
                nn.Sequential(nn.Linear(i, 5), nn.SiLU(), nn.Linear(5, o)) for i, o in ((9, 4), (8, 4), (4, 1))
            )

        def forward(self, h, x):
            apart = x[TARGET] - x[SOURCE]
            m = self.edge(torch.cat([h[TARGET], h[SOURCE], apart.square().sum(1, keepdim=True)], 1))
            return self.node(torch.cat([h, gathered(m)], 1)), x + gathered(apart * self.move(m)) / NODES

    def loss_of(net, h, x, y):
        h, moved = net(h, x)
        return F.mse_loss(moved, y) + h.sum().square()

    return Example(Equivariant(), (torch.randn(NODES, 4), torch.randn(NODES, 3), torch.randn(NODES, 3)), loss_of)


class SchNet(nn.Module):
    """Schütt et al., 2017: continuous filters of distances."""

    def __init__(self):
        super().__init__()
        self.atoms, self.filters = nn.Embedding(4, 5), nn.Sequential(nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 5))
        self.out = nn.Sequential(nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 1))

    def forward(self, kinds, x):
        distance = (x[TARGET] - x[SOURCE]).norm(dim=1, keepdim=True)
        bumps = torch.exp(-4 * (distance - torch.linspace(0, 3, 6).to(x)) ** 2)
        h = self.atoms(kinds)
        return self.out(h + gathered(h[SOURCE] * self.filters(bumps))).sum()


@architecture("SchNet", "energy")
def schnet():
    """The energy of a molecule."""
    batch = torch.randint(4, (NODES,)), torch.randn(NODES, 3), torch.randn(())
    return Example(SchNet(), batch, lambda net, kinds, x, y: (net(kinds, x) - y).square())


@architecture("SchNet, force matching", "energy and forces, autograd.grad inside the loss")
def force_matching():
    """Chmiela et al., 2017: the forces are −∂energy/∂x."""

    def loss_of(net, kinds, x, energy, forces):
        x = x.detach().requires_grad_()
        got = net(kinds, x)
        (slope,) = torch.autograd.grad(got, x, create_graph=True)
        return (got - energy).square() + 10 * F.mse_loss(-slope, forces)

    return Example(
        SchNet(), (torch.randint(4, (NODES,)), torch.randn(NODES, 3), torch.randn(()), torch.randn(NODES, 3)), loss_of
    )


def sets_regressed(net: nn.Module) -> Example:
    """Squared error of a number of each of 3 sets."""
    return Example(net, (torch.randn(3, 5, 4), torch.randn(3, 1)), lambda net, x, y: F.mse_loss(net(x), y))


@architecture("Deep Sets", "a number of each set")
def deep_sets():
    """Zaheer et al., 2017."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.each, self.all = nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 1)

        def forward(self, x):
            return self.all(self.each(x).sum(1))

    return sets_regressed(Sum())


@architecture("Set Transformer", "a number of each set")
def set_transformer():
    """Lee et al., 2019: induced set attention, pooling by attention."""

    class Sets(nn.Module):
        def __init__(self):
            super().__init__()
            self.induced, self.seed, self.out = (
                nn.Parameter(torch.randn(2, 4)),
                nn.Parameter(torch.randn(1, 4)),
                nn.Linear(4, 1),
            )
            self.attentions = nn.ModuleList(nn.MultiheadAttention(4, 2, batch_first=True) for _ in range(3))
            self.norm = nn.LayerNorm(4)

        def attend(self, i, q, x):
            return self.norm(q + self.attentions[i](q, x, x, need_weights=False)[0])

        def forward(self, x):
            n = len(x)
            x = self.attend(1, x, self.attend(0, self.induced.expand(n, -1, -1), x))
            return self.out(self.attend(2, self.seed.expand(n, -1, -1), x)[:, 0])

    return sets_regressed(Sets())
