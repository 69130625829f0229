"""Hypothesis strategies: random trees, and smooth losses of known structure on them, in float64.

Hypothesis draws the structure (containers, shapes, the kind of loss, a seed); the seed draws the numbers.
"""

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from alpha_func import tree
from alpha_func.transforms import STRATEGIES

SHAPES = [(), (1,), (3,), (2, 2), (2, 1, 2)]
strategy_names = st.sampled_from(sorted(STRATEGIES))
seeds = st.integers(0, 2**16)
factors = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)


class Pair(NamedTuple):
    """A NamedTuple as a container."""

    first: Any
    second: Any


class Nesting(NamedTuple):
    """A tree with the numbers 0..n−1 as leaves, in any order: where each of n tensors goes."""

    template: Any

    def build(self, tensors):
        return tree.map(lambda place: tensors[place], self.template)

    def read(self, nested):
        """The tensors in the order that ``build`` took them."""
        places = tree.leaves(self.template)
        return [leaf for _, leaf in sorted(zip(places, tree.leaves(nested), strict=True), key=lambda pair: pair[0])]


class Problem(NamedTuple):
    """A loss of the tensors of a tree, the tree's nesting, a point, and two directions."""

    of_tensors: Any
    nesting: Nesting
    params: Any
    d: Any
    e: Any

    def loss(self, params):
        return self.of_tensors(self.nesting.read(params))


@st.composite
def templates(draw, places):
    if len(places) == 1 and draw(st.booleans()):
        return places[0]
    cuts = sorted(draw(st.sets(st.integers(1, len(places) - 1), min_size=1))) if len(places) > 1 else []
    groups = [places[a:b] for a, b in zip([0, *cuts], [*cuts, len(places)], strict=True)]
    children = [draw(templates(group)) if len(places) > 1 else group[0] for group in groups]
    kinds = ["dict", "list", "tuple"] + ["pair"] * (len(children) == 2)
    match draw(st.sampled_from(kinds)):
        case "dict":
            keys = draw(
                st.lists(st.text("abw.0", min_size=1, max_size=3), min_size=len(children), max_size=5, unique=True)
            )
            return dict(zip(keys, children, strict=False))
        case "pair":
            return Pair(*children)
        case "list":
            return children
        case _:
            return tuple(children)


@st.composite
def nestings(draw, count):
    return Nesting(draw(templates(draw(st.permutations(range(count))))))


def _quadratic(x, A, B, c):
    return (A @ x).square().sum() / 2 - (B @ x).square().sum() / 3 + c @ x + 1


def _polynomial(x, A, B, c):
    return (A @ x).pow(4).sum() / 4 + (B @ x).pow(3).sum() / 3 + c @ x


def _softplus(x, A, B, c):
    return F.softplus(A @ x).sum() + torch.logsumexp(B @ x, 0) + (c @ x) ** 2


def _network(x, A, B, c):
    return F.softplus(B.T @ torch.tanh(A @ x)).mean() + torch.sin(c @ x)


def _product(x, A, B, c):
    return torch.exp(-(A @ x).square().mean()) * torch.cos(B @ x).sum() + (c @ x) * (A @ x).sum()


KINDS = {f.__name__.strip("_"): f for f in (_quadratic, _polynomial, _softplus, _network, _product)}


def loss_of_tensors(kind, seed, size):
    """A loss of a list of tensors with ``size`` numbers in all, its coefficients drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator) / size**0.5

    coefficients = draw(4, size), draw(4, size), draw(size)

    def of_tensors(tensors):
        return KINDS[kind](torch.cat([t.reshape(-1) for t in tensors]), *coefficients)

    return of_tensors


@st.composite
def problems(draw, kinds=tuple(KINDS)):
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    nesting, seed = draw(nestings(len(shapes))), draw(seeds)
    generator = torch.Generator().manual_seed(seed)

    def point():
        return nesting.build([torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes])

    size = sum(torch.Size(shape).numel() for shape in shapes)
    of_tensors = loss_of_tensors(draw(st.sampled_from(kinds)), seed + 1, size)
    return Problem(of_tensors, nesting, point(), point(), point())
