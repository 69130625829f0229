"""A batch: the arguments of a loss besides the parameters, and its parts.

An element of a DataLoader is what a loss takes after the parameters: a tuple or list is its positional arguments, a
mapping its keyword arguments, anything else one argument. The examples of a batch lie along the first dimension of
every tensor in it; a 0-d tensor, and anything that is not a tensor, belongs to the batch as a whole.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs

Arguments = tuple[Args, Kwargs]


def arguments(batch: object) -> Arguments:
    """The positional and keyword arguments that a batch stands for.

    >>> arguments([1, 2]), arguments({"labels": 3}), arguments(4)
    (((1, 2), {}), ((), {'labels': 3}), ((4,), {}))
    """
    if isinstance(batch, (tuple, list)):
        return tuple(batch), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (batch,), {}


def size_of(args: Args, kwargs: Kwargs) -> int:
    """How many examples a batch has.

    Raises:
        ValueError: its tensors do not agree, or there are none.

    >>> import torch
    >>> size_of((torch.ones(4, 2), torch.ones(4)), {})
    4
    """
    sizes = {leaf.shape[0] for leaf in tree.leaves((args, kwargs)) if _is_batched(leaf)}
    if len(sizes) == 1:
        return sizes.pop()
    if not sizes:
        raise ValueError(
            "the batch has no tensor with a dimension, so its examples cannot be counted or separated: pass tensors "
            "whose first dimension is the examples"
        )
    shapes = ", ".join(
        f"{_argument(path)} {tuple(leaf.shape)}"
        for path, leaf in tree.named_leaves((args, kwargs))
        if _is_batched(leaf)
    )
    raise ValueError(
        f"the tensors of the batch have different first dimensions ({shapes}): expected one example a row in each; "
        "let the loss close over a tensor whose rows are not examples"
    )


def part(args: Args, kwargs: Kwargs, start: int, stop: int) -> Arguments:
    """The examples from start to stop, as a batch.

    >>> import torch
    >>> part((torch.tensor([1, 2, 3]),), {}, 1, 3)
    ((tensor([2, 3]),), {})
    """
    cut = tree.map(lambda leaf: leaf[start:stop] if _is_batched(leaf) else leaf, (args, kwargs))
    return cut[0], cut[1]


def joined(first: Arguments, second: Arguments) -> Arguments | None:
    """The examples of two batches as one; None where they do not make one.

    >>> import torch
    >>> joined(((torch.ones(2), 5), {}), ((torch.zeros(1), 5), {}))
    ((tensor([1., 1., 0.]), 5), {})
    >>> joined(((torch.ones(2), 5), {}), ((torch.zeros(1), 6), {})) is None
    True
    """
    leaves, structure = tree.flatten(first)
    others, other_structure = tree.flatten(second)
    if structure != other_structure or not all(map(_fit, leaves, others)):
        return None
    both = [torch.cat([a, b]) if _is_batched(a) else a for a, b in zip(leaves, others, strict=True)]
    args, kwargs = tree.unflatten(both, structure)
    return args, kwargs


def _fit(a: Any, b: Any) -> bool:
    if _is_batched(a) and _is_batched(b):
        return (a.shape[1:], a.dtype, a.device) == (b.shape[1:], b.dtype, b.device)
    return a is b or (type(a) is type(b) and bool(a == b))


def shapes_of(args: Args, kwargs: Kwargs) -> list[Any]:
    """The shape of one example: of every tensor without its first dimension."""
    return [leaf.shape[1:] for leaf in tree.leaves((args, kwargs)) if isinstance(leaf, Tensor)]


def _is_batched(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0


def _argument(path: str) -> str:
    """``[0][1]``, the second positional argument, as ``batch[1]``; ``[1]['labels']`` as ``batch['labels']``."""
    return "batch" + path[3:]
