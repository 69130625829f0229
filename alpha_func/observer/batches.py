"""A batch as it was handed over: what the loop does with its tensors afterwards does not reach it."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alpha_func.calls import Args, Kwargs
from alpha_func.observer.forwards import Beginning


class Batch(NamedTuple):
    """What a loss was called with.

    Attributes:
        args, kwargs: of the loss, copies.
        loss: what the loop says that it came to; None where it does not say.
        tensors: the ids of the tensors that were handed over, and their versions.
        beginning: what the forward of this batch began with; None where that is not known.
        changed: whether a tensor of it changed between its forward and its being handed over.
    """

    args: Args
    kwargs: Kwargs
    loss: float | Tensor | None = None
    tensors: Mapping[int, int] = MappingProxyType({})
    beginning: Beginning | None = None
    changed: bool = False


def handed_over(args: Args, kwargs: Kwargs, loss: float | Tensor | None) -> Batch:
    """The batch with copies of its tensors, apart from the graph.

    >>> label = torch.ones(2)
    >>> batch = handed_over((label,), {}, None)
    >>> label.fill_(0.0)
    tensor([0., 0.])
    >>> batch.args
    (tensor([1., 1.]),)
    """
    given = {id(tensor): tensor._version for tensor in tensors_in((args, kwargs))}
    loss = loss.detach() if isinstance(loss, Tensor) else loss
    return Batch(each_tensor(_copied, args), each_tensor(_copied, kwargs), loss, given)


def each_tensor(function: Any, value: Any) -> Any:
    """The value with ``function`` of each tensor in it: in containers, dataclasses, and objects that hold tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        parts = [each_tensor(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [each_tensor(function, part) for part in value]
    if isinstance(value, dict):
        made = copy.copy(value)
        made.update((name, each_tensor(function, part)) for name, part in value.items())
        return made
    if _holds_tensors(value):
        made = copy.copy(value)
        for name, part in vars(value).items():
            object.__setattr__(made, name, each_tensor(function, part))
        return made
    return value


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors that ``each_tensor`` reaches."""
    if isinstance(value, Tensor):
        yield value
        return
    parts: Any = ()
    if isinstance(value, tuple | list):
        parts = value
    elif isinstance(value, Mapping):
        parts = value.values()
    elif _holds_tensors(value):
        parts = vars(value).values()
    for part in parts:
        yield from tensors_in(part)


def _holds_tensors(value: object) -> bool:
    """Whether it is a bag of tensors: a dataclass, a graph, a tokenizer's output; no module, which is shared."""
    if isinstance(value, type | torch.nn.Module | torch.Generator) or not hasattr(value, "__dict__"):
        return False
    if dataclasses.is_dataclass(value):
        return True
    parts = vars(value).values()
    return any(isinstance(p, Tensor) or (isinstance(p, dict) and any(map(torch.is_tensor, p.values()))) for p in parts)


def _copied(value: Tensor) -> Tensor:
    """A leaf of its own; asked for gradients where the tensor was, as a loss may ask for them."""
    return value.detach().clone().requires_grad_(value.requires_grad)
