"""The table of the laws, by operator."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from alpha_func.capture.builder.builder import Law

LawOfKind = Callable[[Any], Law | None]


class Table(Mapping[Any, list[Law]]):
    """Operator to its laws: first those of its kind, which its tags tell, then its own."""

    def __init__(self) -> None:
        self.of_kinds: list[LawOfKind] = []
        self.own: dict[Any, list[Law]] = {}
        self._all: dict[Any, list[Law]] = {}
        self._left_out: ContextVar[Collection[Law]] = ContextVar("left_out", default=())

    def __getitem__(self, target: Any) -> list[Law]:
        if target not in self._all:
            of_kind = [law for law_of in self.of_kinds if (law := law_of(target)) is not None]
            self._all[target] = [*of_kind, *self.own.get(target, ())]
        left_out = self._left_out.get()
        return [law for law in self._all[target] if law not in left_out] if left_out else self._all[target]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def seen(self) -> list[Law]:
        """Every law of an operator that has been asked for."""
        return list(dict.fromkeys(law for laws in self._all.values() for law in laws))

    def left_out(self) -> frozenset[Law]:
        """The laws that are left out now."""
        return frozenset(self._left_out.get())

    @contextmanager
    def without(self, left_out: Collection[Law]) -> Iterator[None]:
        """Some laws left out for a while, in this thread alone: a program is then longer, and the same."""
        token = self._left_out.set(left_out)
        try:
            yield
        finally:
            self._left_out.reset(token)


LAWS = Table()


def law(*targets: Any) -> Callable[[Law], Law]:
    """Register a law for these operators."""

    def register(function: Law) -> Law:
        for target in targets:
            LAWS.own.setdefault(target, []).append(function)
        return function

    return register


def law_of_kind(law_of: LawOfKind) -> LawOfKind:
    """Register ``law_of(operator)``, the law that an operator has by its kind, or None."""
    LAWS.of_kinds.append(law_of)
    return law_of
