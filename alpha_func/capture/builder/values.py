"""What a program is made of, while it is written."""

from collections.abc import Callable
from typing import Any

Operator = Any  # of ``torch.ops``, or ``getitem``
Value = Any  # a node, or a Python number that broadcasts; a list for several outputs; None where there is none

# Operands are nested in tuples and lists alone: at a fifth of a pytree's cost.


def leaves(nested: Value) -> list[Value]:
    """What stands in operands, in order, None among it."""
    if not isinstance(nested, (tuple, list)):
        return [nested]
    found = []
    for part in nested:
        if isinstance(part, (tuple, list)):
            found += leaves(part)
        else:
            found.append(part)
    return found


def mapped(function: Callable[[Value], Value], nested: Value) -> Value:
    """Operands with what a function makes of each."""
    if isinstance(nested, tuple):
        return tuple([mapped(function, part) for part in nested])
    if isinstance(nested, list):
        return [mapped(function, part) for part in nested]
    return function(nested)
