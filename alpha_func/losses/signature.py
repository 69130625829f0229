"""The signature of a call: all that distinguishes its arguments besides the values of tensors.

Structure; shape, strides (sparse: layout), dtype, device and ``requires_grad`` of every tensor; any other argument by
type and value.
"""

from typing import Any

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.tree import Tree

Key = tuple[Any, ...]


def signature(params: Tree, args: Args, kwargs: Kwargs) -> tuple[Key, list[Tensor], list[Tensor]]:
    """The key of a call, the leaves of its parameters, and the tensors among its arguments.

    A dict of parameters and a batch of tensors need no pytree; it would take ten times as long.

    Raises:
        TypeError: an argument can be no part of a key: it is neither a tensor nor hashable.
    """
    if is_flat(params, args, kwargs):
        leaves, tensors = list(params.values()), [*args, *kwargs.values()]
        return (*params, len(args), *kwargs, *map(_kind, leaves), *map(_kind, tensors)), leaves, tensors
    all_leaves, structure = tree.flatten((params, args, kwargs))
    leaves = tree.leaves(params)
    rest = all_leaves[len(leaves) :]
    key = (structure, *map(_kind, leaves), *[_kind(x) if isinstance(x, Tensor) else (type(x), _value(x)) for x in rest])
    try:
        hash(key)
    except TypeError:
        raise TypeError(_unhashable(args, kwargs)) from None
    return key, leaves, [leaf for leaf in rest if isinstance(leaf, Tensor)]


def _kind(tensor: Tensor) -> tuple[object, ...]:
    strides = tensor.stride() if tensor.layout is torch.strided else tensor.layout
    return tensor.shape, strides, tensor.dtype, tensor.device, tensor.requires_grad


def _value(leaf: object) -> object:
    return (leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else leaf  # hashable from Python 3.12 on


def is_flat(params: Tree, args: Args, kwargs: Kwargs) -> bool:
    """Whether the parameters are a dict of plain tensors, and every argument is one."""
    return tree.is_flat(params) and tree.PLAIN.issuperset([type(x) for x in args]) and tree.is_flat(kwargs)


def _unhashable(args: Args, kwargs: Kwargs) -> str:
    for path, leaf in tree.named_leaves((args, kwargs)):
        try:
            hash(leaf)
        except TypeError:
            name = path.removeprefix("[1]") if path.startswith("[1]") else "args" + path.removeprefix("[0]")
            kind = type(leaf).__name__
            return f"{name} is a {kind}: a captured loss takes tensors and hashable values; pass torch.as_tensor(it)"
    return "the arguments hold a container that cannot be hashed: pass dicts, lists and tuples"
