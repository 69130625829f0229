"""The signature of a call: all that a program depends on besides the values of its tensors.

Structure of the arguments; shape, dtype and device of every tensor; any other argument by type and value.
"""

from typing import Any

from torch import Tensor

from alpha_func import tree
from alpha_func.tree import Tree

Key = tuple[Any, ...]


def signature(
    params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any], state: list[Tensor]
) -> tuple[Key, list[Tensor]]:
    """The key of a call, and its tensors as a program takes them: parameters, state, arguments.

    A dict of parameters and a batch of tensors need no pytree; it would take ten times as long.

    Raises:
        TypeError: an argument can be no part of a key: it is neither a tensor nor hashable.
    """
    values = list(params.values()) if type(params) is dict else None
    if values is not None and _all_tensors(values) and _all_tensors(args) and _all_tensors(kwargs.values()):
        tensors = [*values, *state, *args, *kwargs.values()]
        return (*params, len(args), *kwargs, *[(t.shape, t.dtype, t.device) for t in tensors]), tensors
    leaves, structure = tree.flatten((params, args, kwargs))
    count = len(tree.leaves(params))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    others = [None if isinstance(leaf, Tensor) else (type(leaf), _value(leaf)) for leaf in leaves]
    tensors[count:count] = state
    key = (structure, *others, *[(t.shape, t.dtype, t.device) for t in tensors])
    try:
        hash(key)
    except TypeError:
        raise TypeError(_unhashable(args, kwargs)) from None
    return key, tensors


def _value(leaf: Any) -> Any:
    return (leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else leaf  # hashable from Python 3.12 on


def _all_tensors(values: Any) -> bool:
    for value in values:  # noqa: SIM110  a generator expression costs twice as much
        if not isinstance(value, Tensor):
            return False
    return True


def _unhashable(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    for path, leaf in tree.named_leaves((args, kwargs)):
        try:
            hash(leaf)
        except TypeError:
            name = path.removeprefix("[1]") if path.startswith("[1]") else "args" + path.removeprefix("[0]")
            kind = type(leaf).__name__
            return f"{name} is a {kind}: a captured loss takes tensors and hashable values; pass torch.as_tensor of it"
    return "the arguments hold a container that cannot be hashed: pass dicts, lists and tuples"
