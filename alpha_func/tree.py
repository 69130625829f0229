"""Pytrees as vectors.

A *tree* is any nesting of containers that torch.func takes (dicts, lists, tuples, NamedTuples, registered nodes, or a
single tensor) whose leaves are tensors. Read as one long vector, a tree can be added, scaled and multiplied: x, y are
trees of one structure, a is a scalar.

torch has no public module of pytrees (2.13); torch.func uses ``torch.utils._pytree``, and so does this one.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from alpha_func import shards
from alpha_func.torch_private import pytree

PIECE = 2**18  # numbers whose inner product BLAS has to float32's last digits

Tree = Any  # a nesting of containers with tensors as leaves; Python's type system cannot say more
Structure = pytree.TreeSpec

PLAIN = frozenset((Tensor, nn.Parameter))  # tensors, and no subclass with a behaviour of its own

flatten = pytree.tree_flatten
unflatten = pytree.tree_unflatten


def is_flat(tree: Tree) -> bool:
    """Whether a tree is a dict of plain tensors, as a module's parameters are: it needs no pytree.

    >>> is_flat({"w": torch.ones(2)}), is_flat({"w": [torch.ones(2)]})
    (True, False)
    """
    return type(tree) is dict and PLAIN.issuperset([type(leaf) for leaf in tree.values()])


def map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """The tree of what a function makes of each leaf, and of what stands in its place in the others.

    >>> map(torch.add, {"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)})
    {'w': tensor(3.)}
    """
    if not is_flat(tree) or any(type(other) is not dict or list(other) != list(tree) for other in others):
        return pytree.tree_map(function, tree, *others)
    rows = zip(tree.values(), *[other.values() for other in others], strict=True)
    return {name: function(*row) for name, row in zip(tree, rows, strict=True)}


def leaves(tree: Tree) -> list[Any]:
    """The leaves of a tree, in the order of its containers; of a flat one at a tenth of a pytree's cost.

    >>> leaves({"w": torch.tensor(1.0), "b": [torch.tensor(2.0)]})
    [tensor(1.), tensor(2.)]
    """
    return list(tree.values()) if is_flat(tree) else pytree.tree_leaves(tree)


def like(tree: Tree, leaves: Iterable[object]) -> Tree:
    """A tree of the containers of ``tree`` with these leaves.

    >>> like({"w": torch.tensor(1.0)}, [torch.tensor(2.0)])
    {'w': tensor(2.)}
    """
    return dict(zip(tree, leaves, strict=True)) if is_flat(tree) else unflatten(leaves, structure(tree))


def structure(tree: Tree) -> Structure:
    """The containers of a tree without its leaves; two trees match when their structures are equal.

    >>> structure({"w": torch.ones(2)}) == structure({"w": torch.zeros(3)})
    True
    """
    return pytree.tree_structure(tree)


def named_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Each leaf with the path that indexes it, in the order of ``leaves``.

    A node that was registered without the names of its children leaves no path: its tree's leaves are counted.

    >>> [name for name, _ in named_leaves({"w": torch.ones(2), "b": [torch.ones(1)]})]
    ["['w']", "['b'][0]"]
    """
    try:
        return [(pytree.keystr(path), leaf) for path, leaf in pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:  # no flatten_with_keys_fn
        return [(f" (leaf {i})", leaf) for i, leaf in enumerate(leaves(tree))]


def names(tree: Tree) -> list[str]:
    """Each leaf's keys joined by dots, in the order of ``leaves``: the names that modules give their parameters.

    >>> names({"layer": {"weight": torch.ones(2)}, "scales": [torch.ones(1)]})
    ['layer.weight', 'scales.0']
    """
    if is_flat(tree):
        return [str(key) for key in tree]
    try:
        paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:  # no flatten_with_keys_fn
        return [str(i) for i in range(len(leaves(tree)))]
    return [".".join(str(getattr(key, fields(key)[0].name)) for key in path) for path in paths]  # type: ignore[arg-type]


def add(x: Tree, y: Tree) -> Tree:
    """x + y, leaf by leaf.

    >>> add([torch.tensor(1.0)], [torch.tensor(2.0)])
    [tensor(3.)]
    """
    return map(torch.add, x, y)


def sub(x: Tree, y: Tree) -> Tree:
    """x - y, leaf by leaf.

    >>> sub([torch.tensor(1.0)], [torch.tensor(2.0)])
    [tensor(-1.)]
    """
    return map(torch.sub, x, y)


def neg(x: Tree) -> Tree:
    """-x, leaf by leaf.

    >>> neg((torch.tensor(1.0),))
    (tensor(-1.),)
    """
    return map(torch.neg, x)


def scale(a: float | Tensor, x: Tree) -> Tree:
    """a·x, every leaf in its own dtype.

    >>> scale(2, {"w": torch.tensor([1.0, 2.0])})
    {'w': tensor([2., 4.])}
    """
    return map(lambda leaf: (a * leaf).to(leaf.dtype), x)


def axpy(a: float | Tensor, x: Tree, y: Tree) -> Tree:
    """a·x + y, every leaf in the dtype of y: the point at distance a from y along x.

    >>> axpy(0.5, [torch.tensor(2.0)], [torch.tensor(1.0)])
    [tensor(2.)]
    """
    if isinstance(a, Tensor):
        return map(lambda x_leaf, y_leaf: (a * x_leaf + y_leaf).to(y_leaf.dtype), x, y)
    return map(lambda x_leaf, y_leaf: torch.add(y_leaf, x_leaf, alpha=a).to(y_leaf.dtype), x, y)


def zeros_like(x: Tree) -> Tree:
    """The zero vector of x's space.

    >>> zeros_like([torch.ones(2)])
    [tensor([0., 0.])]
    """
    return map(torch.zeros_like, x)


def randn_like(x: Tree, *, generator: torch.Generator | None = None) -> Tree:
    """A standard normal vector of x's space.

    >>> g = torch.Generator().manual_seed(0)
    >>> randn_like([torch.ones(1)], generator=g)
    [tensor([1.5410])]
    """

    def draw(leaf: Tensor) -> Tensor:
        return torch.randn(leaf.shape, dtype=leaf.dtype, device=leaf.device, generator=generator)

    return map(draw, x)


def vdot(x: Tree, y: Tree) -> Tensor:
    """The inner product xᵀy, a 0-d tensor on the device of the first leaf.

    A complex leaf is the real numbers that it is made of: its part is Re Σ x̄·y.
    Of DTensors it is over all ranks, one reduction of a number for each mesh.
    Accumulates in float32 or better: the products of a bfloat16 tree are float32, of a float64 tree float64.

    >>> vdot({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 4.0])})
    tensor(11.)
    >>> vdot(torch.tensor([1 + 2j]), torch.tensor([3 - 1j]))
    tensor(1.)
    >>> vdot(torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    flat = is_flat(x) and is_flat(y) and list(x) == list(y)
    if flat:
        x_leaves, y_leaves = list(x.values()), list(y.values())
    else:
        x_leaves, x_structure = flatten(x)
        y_leaves, y_structure = flatten(y)
        if y_structure != x_structure:  # dicts in another order, or a mismatch, which this raises
            y_leaves = x_structure.flatten_up_to(y)
    if not flat and shards.any_sharded((*x_leaves, *y_leaves)):
        pairs = [(a, shards.placed_as(b, a)) for a, b in zip(x_leaves, y_leaves, strict=True)]
        return shards.vdot([leaf_vdot(*map(shards.local, pair)) for pair in pairs], x_leaves)
    total, *rest = [leaf_vdot(x_leaf, y_leaf) for x_leaf, y_leaf in zip(x_leaves, y_leaves, strict=True)]
    for product in rest:
        total = total + product.to(total.device)
    return total


def leaf_vdot(x: Tensor, y: Tensor) -> Tensor:
    """The inner product of two leaves."""
    if x.is_complex():
        x, y = (torch.view_as_real(leaf.resolve_conj()) for leaf in (x, y))
    if x.dtype != y.dtype or x.dtype not in (torch.float32, torch.float64):
        accumulator = accumulator_dtype(torch.promote_types(x.dtype, y.dtype))
        x, y = x.to(accumulator), y.to(accumulator)
    return dot(x.reshape(-1), y.reshape(-1))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """The inner product of two vectors, a long one piece by piece: of 4·10⁷ numbers in float32 BLAS loses 2e-4."""
    if x.numel() <= PIECE or not x.is_cpu:
        return torch.dot(x, y)
    return torch.stack(
        [torch.dot(a, b) for a, b in zip(torch.split(x, PIECE), torch.split(y, PIECE), strict=True)]
    ).sum()


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which inner products of this dtype are summed: float32 or better.

    >>> accumulator_dtype(torch.bfloat16), accumulator_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def norm(x: Tree) -> Tensor:
    """The Euclidean norm √(xᵀx).

    >>> norm([torch.tensor([3.0]), torch.tensor([4.0])])
    tensor(5.)
    """
    return vdot(x, x).sqrt()
