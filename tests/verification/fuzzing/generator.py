"""A seed's program, grown operator by operator.

As NNSmith (Liu et al., 2023): an operator is inserted that takes what is there, and an operand of a shape that is not
there is made on demand. What raises, is not finite or is large is dropped again, so that a program always runs. Which
families a program has, and how much of each, is drawn first (swarm testing, Groce et al., 2012).
"""

import random
from typing import Any

import torch
from torch import Tensor

from tests.verification.fuzzing.pool import Pool, literal
from tests.verification.fuzzing.program import Program, Statement, names_in
from tests.verification.fuzzing.slots import filled, holds, rng
from tests.verification.fuzzing.templates import COMPLEX_ENDS, ENDS, FAMILIES, WEIGHTS, Template

_ENTRIES, _MAGNITUDE = 80, 300  # of a value
_CANNOT_BE_INSERTED = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError)


def program_of(seed: int, without: frozenset[str] = frozenset()) -> Program:
    """The program of a seed.

    Args:
        seed: any integer.
        without: families of templates to leave out, and "zeros".
    """
    draw = rng(seed, "program")
    dtype = draw.choices(["float64", "mixed", "float32"], [7, 1.5, 1.5])[0]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if dtype == "float32" else torch.float64)
    try:
        return _grown(draw, dtype, without).tidy()
    finally:
        torch.set_default_dtype(before)


def _grown(draw: random.Random, dtype: str, without: frozenset[str]) -> Program:
    batched, zeros = draw.random() < 0.12, draw.random() < 0.25 and "zeros" not in without
    pool = Pool(draw, dtype, zeros=zeros)
    weights = _swarm(draw, without)
    wanted = draw.randint(15, 40) if draw.random() < 0.06 else draw.randint(3, 13)
    for _ in range(draw.randint(1, 3)):
        pool.new(pool.some_shape(), "p")
    statements: list[Statement] = []
    for _ in range(8 * wanted):
        if len(statements) == wanted:
            break
        family = draw.choices(list(weights), list(weights.values()))[0]
        _insert(draw.choice(FAMILIES[family]), pool, statements)
    dtypes = {name: pool.values[name].dtype for name in pool.params}
    return Program(
        params=pool.params,
        direction={name: literal(draw, pool.shape(name), dtypes[name]) for name in pool.params},
        args=pool.args,
        statements=tuple(statements),
        results=_results(draw, pool),
        dtype=dtype,
        batched=batched and bool(pool.args),
    )


def _swarm(draw: random.Random, without: frozenset[str]) -> dict[str, float]:
    """How likely each family is in this program."""
    weights = {family: weight * draw.choice([0.3, 1, 1, 2]) for family, weight in WEIGHTS.items()}
    if draw.random() < 0.12:
        weights["complex"] = 8.0
    return {family: weight for family, weight in weights.items() if family not in without}


def _results(draw: random.Random, pool: Pool) -> tuple[str, ...]:
    """A term for each value that nothing uses."""
    floats = [name for name, value in pool.values.items() if value.is_floating_point()]
    unused = [name for name in floats if name not in pool.used and name[0] == "v"]
    complexes = [name for name, value in pool.values.items() if value.is_complex() and name not in pool.used]
    ends = [(name, ENDS) for name in unused] + [(name, COMPLEX_ENDS) for name in complexes]
    return tuple(draw.choice(of).format(name) for name, of in ends or [(floats[-1], ENDS)])


def _insert(template: Template, pool: Pool, statements: list[Statement]) -> None:
    """Grow the program by a template, if what it makes can be a value."""
    params, args, values = dict(pool.params), dict(pool.args), dict(pool.values)
    name = f"v{len(statements)}"
    made = None
    main = _main_operand(template, pool)
    if main is not None:
        try:
            made = _made(template, pool, main, name)
        except _CANNOT_BE_INSERTED:
            made = None
    if made is None:
        pool.params, pool.args, pool.values = params, args, values
        return
    code, value = made
    statements.append(Statement(name, code))
    pool.add(name, value)
    pool.used |= names_in(code) - {name}


def _main_operand(template: Template, pool: Pool) -> str | None:
    for _ in range(4):
        main = pool.pick()
        if main is not None and holds(template.condition, pool.shape(main)):
            return main
    main = pool.new(pool.some_shape(template.dims or 3))
    return main if holds(template.condition, pool.shape(main)) else None


def _made(template: Template, pool: Pool, main: str, name: str) -> tuple[str, Tensor] | None:
    code = filled(template.body, pool, main, name)
    if "{out}" not in template.body:
        code = f"{name} = {code}"
    space: dict[str, Any] = dict(pool.space)
    exec(code, space)
    value = space[name]
    if not isinstance(value, Tensor) or not 0 < value.numel() <= _ENTRIES or value.layout is not torch.strided:
        return None
    if value.dtype != torch.bool and not (value.isfinite().all() and value.abs().max() < _MAGNITUDE):
        return None
    return code, value
