"""What the holes of a template are filled with, for a main operand of a given shape."""

import math
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests.verification.fuzzing.pool import Pool, broadcasts_with

_HOLE = re.compile(r"\{([^{}]*)\}")


def filled(body: str, pool: Pool, main: str, out: str) -> str:
    """A template's body with every hole filled; ``main`` is its main operand, ``out`` the name of what it makes."""
    slots = Slots(pool, main, out)
    return _HOLE.sub(lambda hole: str(eval(hole[1], {"max": max}, slots)), body)


def holds(condition: str, shape: tuple[int, ...]) -> bool:
    """Whether a template takes a main operand of this shape."""
    return not condition or bool(eval(condition, {"S": shape, "n": len(shape)}))


class Slots(Mapping[str, Any]):
    """The names that the expression in a hole may use. A method without arguments is called at every mention."""

    def __init__(self, pool: Pool, main: str, out: str):
        self.pool, self.draw, self.x, self.out = pool, pool.draw, main, out
        self.S = pool.shape(main)
        self.n, self.numel = len(self.S), math.prod(self.S)

    def __getitem__(self, name: str) -> Any:
        """The value of a name."""
        if name.startswith("_"):
            raise KeyError(name)
        try:
            found = getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None
        return found() if callable(found) and name not in self._FUNCTIONS else found

    _FUNCTIONS = frozenset({"of", "labels", "integer", "choice"})

    def __iter__(self) -> Any:
        """Not needed."""
        return iter(())

    def __len__(self) -> int:
        """Not needed."""
        return 0

    # Operands

    def y(self) -> str:
        """A float that broadcasts with the main operand: a value, a constant, a number, or a new input."""
        draw, how = self.draw, self.draw.random()
        shape = tuple(1 if draw.random() < 0.3 else size for size in self.S)
        shape = shape[draw.randrange(len(shape)) :] if shape and draw.random() < 0.3 else shape
        if how < 0.5:
            return self.x if how < 0.1 else self._value(broadcasts_with(self.S))
        if how < 0.68:
            filled = f"torch.full({shape}, {draw.choice([0.5, -1.0, 2.0])})"
            counted = f"torch.arange({float(math.prod(shape))}).reshape({shape})"
            constants = [f"torch.zeros({shape})", f"torch.ones({shape})", filled, counted, f"torch.ones_like({self.x})"]
            return draw.choice(constants)
        if how < 0.75:
            return str(draw.choice([0.0, 1.0, -1.0, 0.5, 2, 1, True]))
        if how < 0.85:
            return self._spread(self.S)
        return self.pool.new(shape)

    z = y

    def b(self) -> str:
        """A bool tensor that broadcasts."""
        found = self.pool.pick("bool", broadcasts_with(self.S)) if self.draw.random() < 0.6 else None
        return found or f"({self._value(broadcasts_with(self.S))} > {self.draw.choice([0.0, 0.3, -0.4])})"

    def i(self) -> str:
        """An integer tensor that broadcasts."""
        found = self.pool.pick("integer", broadcasts_with(self.S)) if self.draw.random() < 0.7 else None
        counted = f"torch.arange({self.S[-1] if self.S else 2})"
        return found or self.draw.choice([counted, f"({self._value(broadcasts_with(self.S))} > 0).long()"])

    def j(self) -> str:
        """A complex tensor; where there is none, the main operand made one."""
        return self.pool.pick("complex") or f"({self.x} * (1 + {self.draw.choice([0.5, 1.0, -2.0])}j))"

    def of(self, *shape: int) -> str:
        """A float of this shape: a value, a constant, a value spread out, or a new input."""
        how = self.draw.random()
        if how < 0.5:
            found = self.pool.pick(fits=lambda t: tuple(t.shape) == shape)
            if found:
                return found
        if how < 0.6:
            return self.draw.choice([f"torch.ones({shape})", f"torch.zeros({shape})", f"torch.full({shape}, .5)"])
        return self._spread(shape) if how < 0.7 else self.pool.new(shape)

    def labels(self, shape: Any, classes: int) -> str:
        """Integers below a number of classes."""
        numbers = torch.tensor([self.draw.randrange(classes) for _ in range(math.prod(shape))])
        return f"torch.tensor({numbers.reshape(list(shape)).tolist()})"

    def target(self) -> str:
        """Probabilities of the main operand's shape."""
        constants = [f"torch.ones({self.S})", f"torch.zeros({self.S})", f"torch.full({self.S}, .3)"]
        mask = f"({self.x} > 0).to({self.x}.dtype)"
        return self.draw.choice([*constants, mask, f"torch.sigmoid({self.of(*self.S)})"])

    # Numbers and other arguments

    def c(self) -> float:
        """A number, often one with laws of its own."""
        return self.draw.choice([0.0, 1.0, -1.0, 2.0, 0.5, -0.3, 1.7])

    def positive(self) -> float:
        """A positive number."""
        return self.draw.choice([1.0, 0.5, 1e-2, 2.0])

    def power(self) -> float:
        """An exponent."""
        return self.draw.choice([2, 3, 0.5, 1.5, 2.5, -1, 1, 0, 2.0, 1.0])

    def integer(self, low: int, high: int) -> int:
        """Between the two, both included."""
        return self.draw.randint(low, high)

    def choice(self, of: Any) -> Any:
        """One of these."""
        return self.draw.choice(of)

    def keep(self) -> bool:
        """For keepdim, and other switches."""
        return self.draw.random() < 0.5

    def reduction(self) -> str:
        """Of a loss."""
        return self.draw.choice(["mean", "sum"])

    def dim(self) -> int:
        """One of the dims."""
        return self.draw.randrange(-self.n, self.n) if self.n else 0

    def dims(self) -> tuple[int, ...]:
        """Some of the dims."""
        return tuple(self.draw.sample(range(self.n), self.draw.randint(1, self.n)))

    def order(self) -> tuple[int, ...]:
        """All dims, in some order."""
        return tuple(self.draw.sample(range(self.n), self.n))

    def view(self) -> tuple[int, ...]:
        """Another shape of as many entries."""
        size = self.numel
        if size < 2:
            return (size,)
        divisor = next(q for q in range(2, size + 1) if size % q == 0)
        return tuple(self.draw.choice([[size], [1, size], [size, 1], [-1], [divisor, -1]]))

    def wider(self) -> tuple[int, ...]:
        """A shape that the main operand expands to."""
        kept = (self.draw.choice([2, 3]) if size == 1 and self.draw.random() < 0.7 else size for size in self.S)
        return (*self.draw.choice([(), (), (2,)]), *kept)

    def _value(self, fits: Callable[[Any], bool]) -> str:
        return self.pool.pick(fits=fits) or self.x

    def _spread(self, shape: tuple[int, ...]) -> str:
        return f"{self.pool.pick()}.reshape(-1)[:1].expand({shape})"


def rng(seed: int, purpose: str) -> random.Random:
    """The random numbers of one purpose of a seed: another purpose's do not shift them."""
    return random.Random(f"{purpose} {seed}")
