"""Tables of laws: each is one rewriting of a program, by operator.

LAWS            what the sweeps are written by: a call in its simplest form
DIFFERENTIABLE  the loss's program without what PyTorch differentiates otherwise, before anything is differentiated
IN_PRIMITIVES   whole operators in primitive ones, for PyTorch to differentiate
CHANNELS_LAST   images as they are convolved fastest
FUSED           several operators in one kernel
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import fx

from alpha_func.capture.builder.builder import Law
from alpha_func.capture.builder.values import Operator

LawOfKind = Callable[[Operator], Law | None]


class Table(Mapping[Operator, list[Law]]):
    """Operator to its laws: first those of its kind, which its tags tell, then its own.

    Args:
        apart: operators each call of which stays a node of its own in what is rewritten.
    """

    def __init__(self, apart: Collection[object] = ()) -> None:
        self.apart = apart
        self._of_kinds: list[LawOfKind] = []
        self._own: dict[Operator, list[Law]] = {}
        self._signs: set[object] = set()
        self._all: dict[Operator, list[Law]] = {}
        self._left_out: ContextVar[Collection[Law]] = ContextVar("left_out", default=())

    def law(self, *targets: object, signs: Collection[object] | None = None) -> Callable[[Law], Law]:
        """Register a law for these operators; ``signs`` are those without which it has nothing to say, else they."""

        def register(law: Law) -> Law:
            for target in targets:
                self._own.setdefault(target, []).append(law)
            self._signs.update(targets if signs is None else signs)
            return law

        return register

    def law_of_kind(self, law_of: LawOfKind) -> LawOfKind:
        """Register ``law_of(operator)``, the law that an operator has by its kind, or None."""
        self._of_kinds.append(law_of)
        return law_of

    def speaks_of(self, program: fx.GraphModule) -> bool:
        """Whether a law may have anything to say of a program."""
        return bool(self._of_kinds) or not self._signs.isdisjoint(node.target for node in program.graph.nodes)

    def __getitem__(self, target: Operator) -> list[Law]:
        if target not in self._all:
            of_kind = [law for law_of in self._of_kinds if (law := law_of(target)) is not None]
            self._all[target] = [*of_kind, *self._own.get(target, ())]
        left_out = self._left_out.get()
        return [law for law in self._all[target] if law not in left_out] if left_out else self._all[target]

    def __iter__(self) -> Iterator[Operator]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

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


LAWS, IN_PRIMITIVES, CHANNELS_LAST, FUSED = (Table() for _ in range(4))
DIFFERENTIABLE = Table(apart={torch.ops.aten.detach.default})  # each may be a leaf that the loss differentiates by
