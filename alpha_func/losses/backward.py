"""Torch functions whose backward is not the derivative of their values.

The derivatives of a loss are those of its values, where what PyTorch holds constant (``detach``, ``no_grad``, the
padding row of an embedding, the parameters of a draw) is constant in all of them. Hooks on gradients are no part of a
loss: while it is differentiated here, none is run. What is left is refused.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from alpha_func import tree
from alpha_func.calls import Args, Function, Kwargs
from alpha_func.torch_private import forward_level

RESCALES = (
    "{} with max_norm={}: it rescales its weight in place at every call, and its derivative ignores that; "
    "set max_norm=None"
)
COUNTS = (
    "{} with scale_grad_by_freq=True: its backward divides by how often an index occurs, which is not the "
    "derivative of the loss; set scale_grad_by_freq=False"
)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``F.embedding``: its padding row is constant in forward mode too, and its gradient dense.

    >>> weight, row = torch.ones(2, 3), torch.tensor([1])
    >>> torch.func.jvp(lambda w: embedding(row, w, padding_idx=1), (weight,), (weight,))[1]
    tensor([[0., 0., 0.]])
    """
    _refuse("F.embedding", max_norm, scale_grad_by_freq)
    found = F.embedding(input, weight)
    if padding_idx is None:
        return found
    if not -len(weight) <= padding_idx < len(weight):
        return F.embedding(input, weight, padding_idx)  # whose error it is
    return torch.where((input == padding_idx % len(weight)).unsqueeze(-1), found.detach(), found)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """``F.embedding_bag``, refused where its backward is not the derivative."""
    _refuse("F.embedding_bag", max_norm, scale_grad_by_freq)
    return F.embedding_bag(input, weight, offsets, None, norm_type, False, *args, **kwargs)


def normal(mean: Any, std: Any = 1.0, *args: object, **kwargs: Any) -> Tensor:
    """``torch.normal``: to PyTorch, a draw does not depend on its mean and deviation."""
    mean, std = (value.detach() if isinstance(value, Tensor) else value for value in (mean, std))
    return torch.normal(mean, std, *args, **kwargs)


def data(tensor: Tensor) -> Tensor:
    """``Tensor.data``, which in forward mode would keep the tangent."""
    return tensor.detach() if forward_level() >= 0 else tensor.data


def unrecorded(function: Function, args: Args, kwargs: Kwargs) -> Any:
    """A call while autograd is off: constant in forward mode too, which goes through ``no_grad``.

    What it writes in place has its new values and its old derivative, as in reverse mode.

    >>> def loss(x):
    ...     with torch.no_grad():
    ...         return unrecorded(torch.sin, (x,), {})
    >>> torch.func.jvp(loss, (torch.zeros(2),), (torch.ones(2),))[1]
    tensor([0., 0.])
    """
    own: dict[int, Tensor] = {}

    def constant(value: Any) -> Any:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        held = value.detach()
        own[id(held)] = value
        return held

    if getattr(function, "__name__", None) in ("__get__", "__set__"):  # what a tensor is, not what is computed of it
        found = function(*args, **kwargs)
        return found.detach() if isinstance(found, Tensor) else found
    args, kwargs = tree.map(constant, (args, kwargs))
    found = function(*args, **kwargs)
    return own.get(id(found), found)


def no_hook(tensor: Tensor, hook: Function) -> RemovableHandle:
    """``Tensor.register_hook``, without a hook."""
    return RemovableHandle(OrderedDict())


class Node:
    """A node of a graph that takes no hooks, and is else the node that it stands for."""

    def __init__(self, node: Any):
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self._node is other._node

    def __hash__(self) -> int:
        return hash(self._node)

    def register_hook(self, hook: Function) -> RemovableHandle:
        """Without a hook."""
        return RemovableHandle(OrderedDict())

    register_prehook = register_hook

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """Those that it hands its gradient to."""
        return tuple((None if node is None else Node(node), i) for node, i in self._node.next_functions)


def node_of(tensor: Tensor) -> Node | None:
    """``Tensor.grad_fn``, which takes no hooks."""
    return None if tensor.grad_fn is None else Node(tensor.grad_fn)


_GRAD_FN: Any = Tensor.grad_fn
_DATA: Any = Tensor.data
BY_FUNCTION: dict[Function, Function] = {
    F.embedding: embedding,
    F.embedding_bag: embedding_bag,
    torch.normal: normal,
    _GRAD_FN.__get__: node_of,
    _DATA.__get__: data,
    Tensor.register_hook: no_hook,
    Tensor.register_post_accumulate_grad_hook: no_hook,
}


def _refuse(name: str, max_norm: float | None, scale_grad_by_freq: bool) -> None:
    if max_norm is not None:
        raise ValueError(RESCALES.format(f"the loss calls {name}", max_norm))
    if scale_grad_by_freq:
        raise ValueError(COUNTS.format(f"the loss calls {name}"))
