"""Operators on lists of tensors (``torch._foreach_add``), tensor by tensor."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from alpha_func.calls import Function
from alpha_func.torch_private import OpOverload

_PREFIX = "_foreach_"
_OTHERWISE: dict[str, Function] = {
    "maximum": lambda x, y: torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp_min(y),
    "minimum": lambda x, y: torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp_max(y),
    "norm": lambda x, ord=2, dtype=None: torch.linalg.vector_norm(x, ord, dtype=dtype),
}
_BY_KEYWORD = {"addcdiv": "value", "addcmul": "value"}  # the fourth argument


def _tensor_by_tensor(one: Function, keyword: str | None, *args: object, **kwargs: object) -> list[object]:
    """``one`` of the i-th entries of all lists, and of what is no list."""
    count = max(len(arg) for arg in args if isinstance(arg, (list, tuple)))
    found = []
    for i in range(count):
        entries = [arg[i] if isinstance(arg, (list, tuple)) else arg for arg in args]
        named = {keyword: entries.pop()} if keyword is not None and len(entries) == 4 else {}
        found.append(one(*entries, **named, **kwargs))
    return found


def _compositions() -> Iterator[tuple[OpOverload, Function]]:
    for packet in dir(torch):
        name = packet.removeprefix(_PREFIX)
        one = _OTHERWISE.get(name, getattr(torch, name, None))
        if packet.startswith(_PREFIX) and one is not None and not name.endswith("_"):
            operators = getattr(torch.ops.aten, packet)
            for overload in operators.overloads():
                if not overload.endswith("out"):
                    yield getattr(operators, overload), partial(_tensor_by_tensor, one, _BY_KEYWORD.get(name))


BY_OPERATOR: dict[OpOverload, Function] = dict(_compositions())
