"""What programs are made of: one operator, or the idiom that a model writes, a line each, by family.

    condition :: statement

The condition, where there is one, is on the shape S of the main operand and its number of dims n. A hole ``{...}`` is
an expression of ``slots``: ``{x}`` the main operand, ``{y}`` and ``{z}`` floats that broadcast with it, ``{b}``,
``{i}`` and ``{j}`` a bool, an integer and a complex tensor, ``{of(2, S[-1])}`` an operand of that shape, ``{c}`` a
number, ``{dim}`` a dim. A statement that writes in place assigns to ``{out}``; any other is an expression, the value.
"""

from typing import NamedTuple

from tests.verification.fuzzing.templates import elementwise, kinds, layers, structure


class Template(NamedTuple):
    """A line of a family."""

    condition: str
    body: str

    @property
    def dims(self) -> int | None:
        """How many dims the main operand must have, where the condition says so."""
        return int(self.condition[5]) if self.condition.startswith("n == ") else None


def _family(text: str) -> tuple[Template, ...]:
    parts = [line.rpartition(" :: ") for line in text.strip().splitlines()]
    return tuple(Template(condition, body) for condition, _, body in parts)


FAMILIES: dict[str, tuple[Template, ...]] = {
    "unary": _family(elementwise.UNARY),
    "activations": _family(elementwise.ACTIVATIONS),
    "positive": _family(elementwise.OF_POSITIVE_VALUES),
    "binary": _family(elementwise.BINARY),
    "numbers": _family(elementwise.WITH_NUMBERS),
    "integers": _family(kinds.INTEGERS),
    "reductions": _family(structure.REDUCTIONS),
    "shapes": _family(structure.SHAPES),
    "products": _family(layers.PRODUCTS),
    "layers": _family(layers.LAYERS),
    "losses": _family(layers.LOSSES),
    "in_place": _family(kinds.IN_PLACE),
    "complex": _family(kinds.COMPLEX),
}
WEIGHTS = {
    "unary": 3.0,
    "activations": 2.0,
    "positive": 1.5,
    "binary": 6.0,
    "numbers": 3.0,
    "integers": 3.0,
    "reductions": 4.0,
    "shapes": 4.0,
    "products": 4.0,
    "layers": 3.0,
    "losses": 3.0,
    "in_place": 1.5,
    "complex": 0.7,
}

# How the values that nothing uses become the loss; the first two, which bend every value, twice as often.
ENDS = """
{0}.square().sum()
{0}.square().mean()
{0}.square().sum()
{0}.square().mean()
{0}.sum()
{0}.mean()
({0} * {0}).sum()
torch.tanh({0}).sum()
F.mse_loss({0}, torch.zeros_like({0}))
F.mse_loss({0}, torch.ones_like({0}), reduction='sum')
{0}.sin().mean()
{0}.exp().mean()
{0}.sum() ** 2
""".strip().splitlines()
COMPLEX_ENDS = ["{0}.abs().square().sum()", "({0} * {0}.conj()).real.mean()", "torch.view_as_real({0}).square().sum()"]
