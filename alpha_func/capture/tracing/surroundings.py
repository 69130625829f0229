"""The simple values that a Python function reads from outside itself: closed-over and global numbers, strings, flags.

A program has them written into it, so they belong to its signature: ``loss = lambda p: strength * p.square().sum()``
must notice that ``strength`` was rebound.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any

from alpha_func.losses.module_state import is_simple

_Read = Callable[[], Any]


class Surroundings:
    """What a function and the functions that it reads in turn close over, other than tensors.

    >>> strength = 1.0
    >>> surroundings = Surroundings(lambda x: strength * x)
    >>> before = surroundings.read()
    >>> strength = 2.0
    >>> surroundings.read() == before
    False
    """

    def __init__(self, function: Callable[..., Any]):
        self._cells: list[types.CellType] = []
        self._globals: list[tuple[dict[str, Any], str]] = []
        if isinstance(function, types.MethodType):
            function = function.__func__
        if isinstance(function, types.FunctionType):
            self._collect(function, set())

    def read(self) -> tuple[Any, ...]:
        """The values, as they are now; hashable."""
        return (
            *[_key(cell.cell_contents) for cell in self._cells],
            *[_key(names.get(name)) for names, name in self._globals],
        )

    def _collect(self, function: types.FunctionType, seen: set[int]) -> None:
        if id(function) in seen or function.__module__.partition(".")[0] == "torch":
            return
        seen.add(id(function))
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            if is_simple(value):
                self._cells.append(cell)
            elif isinstance(value, types.FunctionType):
                self._collect(value, seen)
        for name in _names(function.__code__):
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            if isinstance(value, types.FunctionType):
                self._collect(value, seen)
            elif not isinstance(value, (type, types.BuiltinFunctionType)) and is_simple(value):
                self._globals.append((function.__globals__, name))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _key(value: Any) -> Any:
    return (type(value), value) if is_simple(value) else id(value)
