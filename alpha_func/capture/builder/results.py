"""What a call returns, as a fake tensor: PyTorch's dispatcher is asked once for operands of a kind, then the memo.

A result has memory of its own or is a view of one operand; either is made again without the dispatcher, in a twentieth
of its time. All else is asked each time.
"""

from collections.abc import Callable
from operator import getitem

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.torch_private import FakeTensor, FakeTensorMode, fake_tensor, fake_view, memory_id

Make = Callable[[FakeTensorMode, list[Value]], Value]  # of the mode and the operands

_MAKE: dict[object, Make] = {}  # by operator and kinds of operands; for all programs
_AT_MOST = 2**14


def result_of(mode: FakeTensorMode, target: Operator, args: Args, kwargs: Kwargs) -> Value:
    """Shape, dtype, strides, device and memory of what a call of nodes and constants returns."""
    if target is getitem:
        return args[0].meta["val"][args[1]]
    operands: list[Value] = []

    def operand(a: Value) -> Value:
        if isinstance(a, fx.Node):
            a = a.meta["val"]
            operands.extend(a if isinstance(a, (tuple, list)) else (a,))
        return a

    vals, named = map_aggregate((args, kwargs), operand)
    key = target, kinds(vals), kinds(tuple(sorted(named.items()))), torch.get_default_dtype()
    make = _MAKE.get(key)
    if make is not None:
        return make(mode, operands)
    with mode:
        found = target(*vals, **named)
    make = _made_again(found, operands)
    if make is not None:
        if len(_MAKE) == _AT_MOST:
            _MAKE.clear()
        _MAKE[key] = make
    return found


def _made_again(found: Value, operands: list[Value]) -> Make | None:
    """Makes such a result; None where it is of another kind, or could be a view of two operands."""
    if isinstance(found, (tuple, list)):
        made = [_made_again(part, operands) for part in found]
        return None if None in made else lambda mode, given: tuple(part(mode, given) for part in made if part)
    if type(found) is not FakeTensor or found.is_conj() or found.is_neg() or found.layout is not torch.strided:
        return None
    shape, stride, dtype, device = found.shape, found.stride(), found.dtype, found.device
    memory = memory_id(found)
    shared = [i for i, x in enumerate(operands) if isinstance(x, Tensor) and memory_id(x) == memory]
    if not shared:
        return lambda mode, given: fake_tensor(shape, stride, dtype, device, mode)
    if len(shared) > 1 or type(operands[shared[0]]) is not FakeTensor:
        return None
    (i,), offset = shared, int(found.storage_offset())
    return lambda mode, given: fake_view(given[i], shape, stride, offset, dtype, mode)


def kinds(value: Value) -> Value:
    """What of operands decides what a call returns, in a hashable form."""
    if isinstance(value, Tensor):
        of_memory = value.shape, value.stride(), value.storage_offset()
        return *of_memory, value.dtype, value.device, value.is_conj(), value.is_neg(), type(value)
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *map(kinds, value))
    return hashable(value)


def hashable(value: Value) -> Value:
    """A hashable form in which 1, 1.0 and True differ."""
    if isinstance(value, (tuple, list)):
        return ("tuple" if isinstance(value, tuple) else "list", *map(hashable, value))
    if isinstance(value, (bool, int, float, complex)):
        return type(value), repr(value)
    return value
