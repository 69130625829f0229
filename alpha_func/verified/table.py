"""Which operators have been verified to second order, under which strategy.

The table is ``operators.csv`` beside this module, written by ``python -m tests.verification.verify_operators``; its
rows are of three kinds. An *operator* is one of PyTorch's database as it is called; a *derivative* is a formula of
autograd, named as its backward node; a *primitive* is an operator of captured programs. A verdict is that of the worst
smooth sample:

    exact   value, slope and curvature agree with extrapolated differences
    raises  PyTorch has no such derivative
    refused capture refuses every sample, with a reason
    nan     nan at a singular sample, exact elsewhere
    wrong   a number that is not the derivative; crash: it ends the process
    rough   no smooth sample

The last columns, of operators, say the same of the sweeps of a captured program, on every sample at once: whether the
forward sweep and the adjoint are themselves exact, fall back on the independent route, or are refused; and for which
other kinds of operands (zeros, ties, expanded, constant, ...) one of them is not, and why.
"""

import csv
import re
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("operators.csv")
STRATEGY_NAMES = ("forward_over_reverse", "reverse_over_reverse", "reverse_over_forward", "forward_over_forward")
SWEEP_COLUMNS = ("sweep", "adjoint", "not_exact_for", "because")
COLUMNS = (
    *("kind", "name", "samples", *STRATEGY_NAMES),
    *(f"captured_{name}" for name in STRATEGY_NAMES),
    *SWEEP_COLUMNS,
)

_MARKS = {
    "bias_alone": "without a weight, its bias trained",
    "strided_weight": "of a weight that is not contiguous",
    "squared_zero": "of an exact 0, and squared",
    "zero_exponent": "with an exponent that moves, and is 0",
}


@cache
def table(kind: str) -> dict[str, dict[str, str]]:
    """Name to verdict by strategy, for one kind of row.

    >>> table("primitive")["aten.mm.default"]["reverse_over_reverse"]
    'exact'
    """
    with TABLE.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file) if row["kind"] == kind}


def operator_of(name: str) -> str:
    """The operator of a derivative formula, ``MseLossBackward0``, or of a primitive, ``aten.mm.default``.

    >>> operator_of("NativeLayerNormBackward0"), operator_of("aten.mm.default")
    ('native_layer_norm', 'aten.mm')
    """
    if name.startswith("aten."):
        return ".".join(name.split(".")[:2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.sub(r"(Generated)?Backward\d*(\[\w+\])?$", "", name)).lower()


def in_words(name: str) -> str:
    """The operator of a derivative formula, and what of its operands makes the formula another.

    >>> in_words("AbsBackward0[squared_zero]"), in_words("ErfBackward0")
    ('abs (of an exact 0, and squared)', 'erf')
    """
    mark = re.search(r"\[(\w+)\]$", name)
    words = _MARKS.get(mark[1]) if mark else None
    return operator_of(name) + (f" ({words})" if words else "")
