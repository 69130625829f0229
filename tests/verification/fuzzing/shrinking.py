"""A failing program made small: the fewest and simplest statements, inputs and numbers that get the same verdict.

Greedy: the first smaller program of which the same is said takes the place of the larger one, until there is none.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.verification.fuzzing.outcomes import Outcome, Verdict
from tests.verification.fuzzing.program import Program, Statement, names_in
from tests.verification.fuzzing.references import Kind, Reference, attempt
from tests.verification.fuzzing.trials import Trial
from tests.verification.fuzzing.verdicts import judged, pattern
from tests.verification.fuzzing.ways import Way


def shrunk(program: Program, way: Way, outcome: Outcome, backend: str, seconds: float) -> tuple[Program, Outcome]:
    """The smallest program found in a time of which the same is said, and what is said of it."""
    end = time.monotonic() + seconds
    again = True
    while again:
        again = False
        for candidate in map(Program.tidy, _smaller(program)):
            if time.monotonic() > end:
                return program, outcome
            found = attempt(lambda c=candidate: outcome_of(c, way, backend)) if candidate != program else None
            if found is not None and _is_same(found, outcome):
                program, outcome, again = candidate, found, True
                break
    return program, outcome


def outcome_of(program: Program, way: Way, backend: str = "eager") -> Outcome | None:
    """What is said of a way on a program; None where the reference cannot judge it."""
    reference = Reference(program)
    if reference.kind is Kind.UNUSABLE:
        return None
    with program.defaults():
        trial = Trial(program, reference, backend)
    return judged(trial, way)


def _is_same(found: Outcome, outcome: Outcome) -> bool:
    if found.verdict is not outcome.verdict:
        return False
    told_by_its_words = outcome.verdict in (Verdict.INTERNAL, Verdict.REFUSED)
    return not told_by_its_words or pattern(found.detail)[:60] == pattern(outcome.detail)[:60]


def _smaller(program: Program) -> Iterator[Program]:
    """Smaller programs, the boldest first."""
    with program.defaults():
        values = _values(program)
        yield from _fewer_results(program, values)
        yield from _fewer_statements(program, values)
        yield from _plainer_results(program)
        yield from _plainer_inputs(program, values)
        yield from _smaller_sizes(program, values)


def _values(program: Program) -> dict[str, Tensor]:
    """The values of a program, as far as it runs."""
    space: dict[str, Any] = {"torch": torch, "F": F, "f32": torch.float32}
    for codes in (program.params, program.args):
        space.update({name: eval(code, space) for name, code in codes.items()})
    attempt(lambda: [exec(code, space) for _, code in program.statements])
    return {name: value for name, value in space.items() if isinstance(value, Tensor)}


def _fewer_results(program: Program, values: dict[str, Tensor]) -> Iterator[Program]:
    if len(program.results) > 1:
        yield from (replace(program, results=(result,)) for result in program.results)
    if program.batched:
        yield replace(program, batched=False)
    for name, _ in program.statements[:-1]:  # an earlier value is the loss
        value = values.get(name)
        if value is not None and value.is_floating_point():
            yield replace(program, results=(f"{name}.square().sum()",))


def _fewer_statements(program: Program, values: dict[str, Tensor]) -> Iterator[Program]:
    """A value becomes a parameter, or is taken for an operand that looks like it."""
    for i in reversed(range(len(program.statements))):
        name, code = program.statements[i]
        value = values.get(name)
        if value is None or not value.is_floating_point():
            continue
        before, after = program.statements[:i], program.statements[i + 1 :]
        new = f"p{100 + int(name[1:])}"
        made = replace(
            program,
            statements=(*before, *after),
            params={**program.params, new: _literal(value)},
            direction={**program.direction, new: _wave(value)},
        )
        yield made.renamed(name, new)
        for operand in sorted(names_in(code) - {name}):
            like = values.get(operand)
            if like is not None and (like.shape, like.dtype) == (value.shape, value.dtype):
                yield replace(program, statements=(*before, Statement(name, f"{name} = {operand}"), *after))


def _plainer_results(program: Program) -> Iterator[Program]:
    for name in sorted(names_in(program.results[0])):
        for end in (f"{name}.sum()", f"{name}.square().sum()"):
            if (end,) == program.results:
                break  # what follows is not plainer
            yield replace(program, results=(end,))


def _plainer_inputs(program: Program, values: dict[str, Tensor]) -> Iterator[Program]:
    """A parameter becomes an argument; inputs have simple numbers and the plain layout; float64."""
    for name, code in program.params.items():
        params, direction = ({k: v for k, v in c.items() if k != name} for c in (program.params, program.direction))
        if params:
            constant = f"a{name[1:]}0"
            args = {**program.args, constant: code}
            yield replace(program, params=params, direction=direction, args=args).renamed(name, constant)
        counted = torch.arange(1.0, values[name].numel() + 1) / 2
        for simple in (counted.to(values[name].dtype).reshape(values[name].shape), values[name]):
            if len(_literal(simple)) < len(code):
                yield replace(program, params={**program.params, name: _literal(simple)})
    for name, code in program.args.items():
        if len(_literal(values[name])) < len(code):
            yield replace(program, args={**program.args, name: _literal(values[name])})
    if program.dtype != "float64" and "float32" not in "".join([*program.params.values(), *program.args.values()]):
        yield replace(program, dtype="float64")


def _smaller_sizes(program: Program, values: dict[str, Tensor]) -> Iterator[Program]:
    """A size becomes 2 wherever an input has it."""
    inputs = {name: values[name] for name in (*program.params, *program.args)}
    for size in sorted({size for value in inputs.values() for size in value.shape if size > 2}):
        cut = {
            name: value[tuple(slice(0, 2) if s == size else slice(None) for s in value.shape)]
            for name, value in inputs.items()
            if size in value.shape
        }
        yield replace(
            program,
            params={name: _literal(cut[name]) if name in cut else code for name, code in program.params.items()},
            args={name: _literal(cut[name]) if name in cut else code for name, code in program.args.items()},
            direction={name: _wave(cut[name]) if name in cut else c for name, c in program.direction.items()},
        )


def _literal(value: Tensor) -> str:
    if not value.is_floating_point():
        return f"torch.tensor({value.tolist()}, dtype={value.dtype})"
    numbers = [round(v, 3) for v in value.detach().double().reshape(-1).tolist()]
    shaped = f".reshape({tuple(value.shape)})" if value.ndim != 1 else ""
    return f"torch.tensor({numbers}, dtype={value.dtype}){shaped}"


def _wave(value: Tensor) -> str:
    numbers = torch.cos(torch.arange(1.0, value.numel() + 1))
    return _literal(numbers.to(value.dtype).reshape(value.shape))
