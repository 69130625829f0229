"""The transformers package computes parts in float32 whatever the dtype of a model: norms, softmaxes, losses of logits.

For the time of a block its code names float64 instead, so that a float64 model is one throughout.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType

import torch

INSTEAD = {"float32": "float64", "float": "double"}


@contextmanager
def in_float64() -> Iterator[None]:
    """Every function of transformers that is loaded now computes in float64 where it is written to in float32, and
    makes its constants in float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    changed: list[tuple[FunctionType, CodeType, tuple[object, ...] | None]] = []
    gc.unfreeze()  # what is frozen is not among the objects
    for function in [f for f in gc.get_objects() if type(f) is FunctionType]:  # isinstance would ask dead proxies
        if (function.__module__ or "").startswith("transformers."):
            code = _widened(function.__code__)
            defaults = function.__defaults__
            if code is not function.__code__ or any(d is torch.float32 for d in defaults or ()):
                changed.append((function, function.__code__, defaults))
                function.__globals__.setdefault("double", float)  # Python's own float has the method's name
                function.__code__ = code
                function.__defaults__ = defaults and tuple(torch.float64 if d is torch.float32 else d for d in defaults)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        for function, code, defaults in changed:
            function.__code__, function.__defaults__ = code, defaults


def _widened(code: CodeType) -> CodeType:
    names = tuple(INSTEAD.get(name, name) for name in code.co_names)
    constants = tuple(_widened(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    if names == code.co_names and all(new is old for new, old in zip(constants, code.co_consts, strict=True)):
        return code
    return code.replace(co_names=names, co_consts=constants)
