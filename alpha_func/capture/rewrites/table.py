"""The table of the laws, by operator."""

from collections.abc import Callable
from typing import Any

from alpha_func.capture.builder.builder import Law

LAWS: dict[Any, list[Law]] = {}


def law(*targets: Any) -> Callable[[Law], Law]:
    """Register a law for these operators."""

    def register(function: Law) -> Law:
        for target in targets:
            LAWS.setdefault(target, []).append(function)
        return function

    return register
