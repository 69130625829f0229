"""Nets on graphs."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field

architecture = of_field("Graphs and sets")


NODES = 6
SOURCE = torch.tensor([0, 1, 1, 2, 3, 4, 4, 5, 0, 2, 5, 3])
TARGET = torch.tensor([1, 0, 2, 1, 4, 3, 5, 4, 2, 0, 3, 5])


def gathered(messages: torch.Tensor) -> torch.Tensor:
    """The sum of the messages at the node that each edge ends in."""
    return torch.zeros(NODES, *messages.shape[1:]).to(messages).index_add(0, TARGET, messages)


def adjacency(like: torch.Tensor) -> torch.Tensor:
    """Symmetrically normalised, with self-loops."""
    a = torch.eye(NODES).index_put((TARGET, SOURCE), torch.ones(()), accumulate=True)
    degree = a.sum(1).rsqrt()
    return (degree[:, None] * a * degree).to(like)


def nodes_classified(net: nn.Module) -> Example:
    """Cross entropy of the labelled nodes, chosen by a boolean mask."""
    labelled = torch.tensor([True, True, False, True, True, False])
    batch = torch.randn(NODES, 4), torch.randint(3, (NODES,)), labelled
    return Example(net, batch, lambda net, x, y, labelled: F.cross_entropy(net(x)[labelled], y[labelled]))


def graph_regressed(net: nn.Module) -> Example:
    """Squared error of a number of the whole graph."""
    return Example(net, (torch.randn(NODES, 4), torch.randn(())), lambda net, x, y: (net(x).sum() - y).square())


class TwoLayers(nn.Module):
    """Two of a kind of layer with a nonlinearity between."""

    def __init__(self, layer, width=5, out=3):
        super().__init__()
        self.first, self.second = layer(4, width), layer(width, out)

    def forward(self, x):
        return self.second(F.elu(self.first(x)))


@architecture("GCN", "labelled nodes by a boolean mask, dropout on")
def gcn():
    """Kipf & Welling, 2017."""

    class Convolution(nn.Linear):
        def forward(self, x):
            return adjacency(x) @ super().forward(F.dropout(x, 0.2, self.training))

    return nodes_classified(TwoLayers(Convolution))


@architecture("GCN, sparse adjacency", "labelled nodes, torch.sparse.mm")
def sparse_gcn():
    """The same with its adjacency as a sparse COO tensor."""

    class Convolution(nn.Linear):
        def forward(self, x):
            edges = torch.stack([TARGET, SOURCE])
            a = torch.sparse_coo_tensor(edges, torch.ones(len(SOURCE)).to(x), (NODES, NODES), check_invariants=False)
            return torch.sparse.mm(a, super().forward(x))

    return nodes_classified(TwoLayers(Convolution))


@architecture("GAT", "labelled nodes, a softmax over each neighbourhood")
def gat():
    """Veličković et al., 2018; the dynamic attention of Brody et al., 2022."""

    class Attention(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.left, self.right, self.score = nn.Linear(i, o), nn.Linear(i, o), nn.Linear(o, 1)

        def forward(self, x):
            left, right = self.left(x), self.right(x)
            e = self.score(F.leaky_relu(left[TARGET] + right[SOURCE], 0.2))
            top = torch.full((NODES, 1), -torch.inf).to(e).index_reduce(0, TARGET, e.detach(), "amax")
            weight = torch.exp(e - top[TARGET])
            return gathered(weight / gathered(weight)[TARGET] * right[SOURCE])

    return nodes_classified(TwoLayers(Attention))


@architecture("GIN", "a graph's number, train mode")
def gin():
    """Xu et al., 2019."""

    class Isomorphism(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.eps, self.net = (
                nn.Parameter(torch.zeros(())),
                nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU(), nn.Linear(o, o)),
            )

        def forward(self, x):
            return self.net((1 + self.eps) * x + gathered(x[SOURCE]))

    return graph_regressed(TwoLayers(Isomorphism))


@architecture("GraphSAGE", "labelled nodes, normalised mean")
def sage():
    """Hamilton et al., 2017."""

    class Sage(nn.Linear):
        def __init__(self, i, o):
            super().__init__(2 * i, o)

        def forward(self, x):
            around = gathered(x[SOURCE]) / gathered(torch.ones(len(SOURCE), 1).to(x))
            return F.normalize(super().forward(torch.cat([x, around], 1)), dim=1)

    return nodes_classified(TwoLayers(Sage))


@architecture("Principal neighbourhood aggregation", "a graph's number")
def pna():
    """Corso et al., 2020: mean, maximum, minimum and standard deviation by scatter_reduce."""

    class Aggregates(nn.Linear):
        def __init__(self, i, o):
            super().__init__(4 * i, o)

        def forward(self, x):
            where = TARGET[:, None].expand(-1, x.shape[1])

            def reduced(values, how):
                return torch.zeros_like(x).scatter_reduce(0, where, values, how, include_self=False)

            m = x[SOURCE]
            mean = reduced(m, "mean")
            spread = (F.relu(reduced(m.square(), "mean") - mean.square()) + 1e-2).sqrt()
            return super().forward(torch.cat([mean, reduced(m, "amax"), reduced(m, "amin"), spread], 1))

    return graph_regressed(TwoLayers(Aggregates))


@architecture("Message passing with edge nets", "a graph's number")
def mpnn():
    """Gilmer et al., 2017: a matrix an edge, a GRU cell, Set2Set left out."""

    class Messages(nn.Module):
        def __init__(self):
            super().__init__()
            self.edge, self.cell, self.out = nn.Linear(2, 16), nn.GRUCell(4, 4), nn.Linear(8, 1)

        def forward(self, x, features):
            h, matrices = x, self.edge(features).view(-1, 4, 4)
            for _ in range(2):
                h = self.cell(gathered(torch.einsum("eij,ej->ei", matrices, h[SOURCE])), h)
            return self.out(torch.cat([x, h], 1)).sum()

    batch = torch.randn(NODES, 4), torch.randn(len(SOURCE), 2), torch.randn(())
    return Example(Messages(), batch, lambda net, x, e, y: F.huber_loss(net(x, e), y))


@architecture("R-GCN", "labelled nodes, relations by a basis")
def relational():
    """Schlichtkrull et al., 2018."""
    kinds = torch.arange(len(SOURCE)) % 3

    class Relational(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.basis, self.mix, self.own = (
                nn.Parameter(torch.randn(2, i, o)),
                nn.Parameter(torch.randn(3, 2)),
                nn.Linear(i, o),
            )

        def forward(self, x):
            weights = torch.einsum("rb,bio->rio", self.mix, self.basis)
            return self.own(x) + gathered(torch.bmm(x[SOURCE][:, None], weights[kinds])[:, 0])

    return nodes_classified(TwoLayers(Relational))


@architecture("ChebNet", "labelled nodes")
def chebyshev():
    """Defferrard et al., 2016."""

    class Chebyshev(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.weights = nn.Parameter(torch.randn(3, i, o))

        def forward(self, x):
            laplacian = -adjacency(x)
            terms = [x, laplacian @ x]
            terms.append(2 * laplacian @ terms[1] - terms[0])
            return torch.einsum("kni,kio->no", torch.stack(terms), self.weights)

    return nodes_classified(TwoLayers(Chebyshev))


@architecture("APPNP", "labelled nodes, ten steps of personalised PageRank")
def appnp():
    """Gasteiger et al., 2019."""

    class Propagated(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

        def forward(self, x):
            z = h = self.net(x)
            a = adjacency(x)
            for _ in range(10):
                z = 0.9 * a @ z + 0.1 * h
            return z

    return nodes_classified(Propagated())


@architecture("DiffPool", "a graph's number, entropy of the clusters")
def diffpool():
    """Ying et al., 2018."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.assign, self.out = nn.Linear(4, 5), nn.Linear(4, 2), nn.Linear(5, 1)

        def forward(self, x):
            a = adjacency(x)
            s, z = (a @ self.assign(x)).softmax(-1), F.relu(a @ self.embed(x))
            pooled = F.relu((s.T @ a @ s) @ (s.T @ z))
            return self.out(pooled).sum() - 0.1 * torch.special.entr(s).mean()

    return graph_regressed(Pooled())
