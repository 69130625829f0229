"""A program of the fuzzer: a loss, its parameters, a direction and arguments, as text.

    def loss(p, a0):            p: a dict of parameters
        p0 = p['p0']
        v0 = torch.tanh(p0)     a statement a value, in order
        return v0.sum()         the sum of its results

Text can be shrunk, printed and run anywhere; ``built`` makes objects of it.
"""

import itertools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

HEAD = "import torch, torch.nn.functional as F, alpha_func as af\nf32 = torch.float32\n"
_NAME = re.compile(r"\b[vpa]\d+\b")
_COUNT, _KEPT = itertools.count(), 64  # modules


class Built(NamedTuple):
    """The objects of a program."""

    loss: Any
    params: dict[str, Tensor]
    direction: dict[str, Tensor]
    args: list[Tensor]


class Statement(NamedTuple):
    """The code that makes a named value."""

    name: str
    code: str


@dataclass(frozen=True)
class Program:
    """A loss with its inputs, each as code.

    Attributes:
        params, direction, args: name to the code of a tensor.
        statements: what the loss does.
        results: the terms whose sum it returns.
        dtype: the default dtype, and that of most inputs: "float64", "float32", or "mixed" for float64 beside float32.
        batched: whether the loss is the mean of the program over three examples of its arguments.
    """

    params: dict[str, str]
    direction: dict[str, str]
    args: dict[str, str]
    statements: tuple[Statement, ...]
    results: tuple[str, ...]
    dtype: str = "float64"
    batched: bool = False

    @cached_property
    def source(self) -> str:
        """The loss."""
        taken = "".join(f", {name}" for name in self.args)
        name = "one" if self.batched else "loss"
        lines = [f"def {name}(p{taken}):", *(f"    {p} = p['{p}']" for p in self.params)]
        lines += [f"    {code}" for _, code in self.statements]
        lines.append(f"    return {' + '.join(self.results)}")
        if self.batched:
            lines.append(f"def loss(p{taken}):")
            lines.append(f"    return torch.stack([one(p, *e) for e in zip({taken[2:]}, strict=True)]).mean()")
        return "\n".join(lines) + "\n"

    @property
    def default_dtype(self) -> torch.dtype:
        """What a tensor gets whose dtype the program does not say."""
        return torch.float32 if self.dtype == "float32" else torch.float64

    @property
    def is_rough(self) -> bool:
        """Whether any of it is in float32."""
        return self.dtype != "float64" or bool(re.search(r"f32|float\(\)", self.source))

    def built(self, *, in_float64: bool = False) -> Built:
        """The program; for a reference, with everything in float64. Call it, and the loss, under ``defaults``."""
        name = f"fuzzed_{next(_COUNT)}"  # torch.compile looks a module up by its name, once for all
        module = sys.modules[name] = ModuleType(name)
        sys.modules.pop(f"fuzzed_{int(name[7:]) - _KEPT}", None)
        space = vars(module)
        exec(HEAD, space)
        if in_float64:
            space["f32"] = torch.float64
        exec(self.source.replace(".float()", ".double()") if in_float64 else self.source, space)

        def tensors(codes: dict[str, str]) -> dict[str, Tensor]:
            made = {name: eval(code, space) for name, code in codes.items()}
            return {name: widened(t) for name, t in made.items()} if in_float64 else made

        args = list(tensors(self.args).values())
        if self.batched:
            args = [torch.stack([t, t * 0.5 + 0.1, -t]) for t in args]
        return Built(space["loss"], tensors(self.params), tensors(self.direction), args)

    def defaults(self, *, in_float64: bool = False) -> Any:
        """A context in which the default dtype is the program's."""
        return _default_dtype(torch.float64 if in_float64 else self.default_dtype)

    @property
    def code(self) -> str:
        """The program as a script that prints what the library says of it."""
        stacked = "[torch.stack([t, t * .5 + .1, -t]) for t in args]"
        return (
            HEAD
            + f"torch.set_default_dtype({self.default_dtype})\n"
            + self.source
            + f"p = {_literal(self.params)}\nd = {_literal(self.direction)}\nargs = [{', '.join(self.args.values())}]\n"
            + (f"args = {stacked}\n" if self.batched else "")
            + "print(af.quadratic_along(loss)(p, d, *args), '# plain')\n"
            "print(af.quadratic_along(af.capture(loss))(p, d, *args), '# captured')\n"
            "print(af.grad_and_quadratic(af.capture(loss), lambda g: d)(p, *args).quadratic, '# with the gradient')\n"
        )

    def tidy(self) -> "Program":
        """The program without statements, parameters and arguments that nothing needs."""
        program = self
        for name, code in self.statements:  # a value that is another
            same = re.fullmatch(rf"{name} = ([vpa]\d+)", code)
            if same:
                left = tuple(s for s in program.statements if s.name != name)
                program = replace(program, statements=left).renamed(name, same[1])
        needed, kept = names_in(" ".join(program.results)), []
        for statement in reversed(program.statements):
            if statement.name in needed:
                kept.append(statement)
                needed |= names_in(statement.code)
        params = {k: v for k, v in program.params.items() if k in needed} or dict([next(iter(program.params.items()))])
        args = {k: v for k, v in program.args.items() if k in needed}
        return replace(
            program,
            statements=tuple(reversed(kept)),
            params=params,
            direction={k: program.direction[k] for k in params},
            args=args,
            batched=program.batched and bool(args),
        )

    def moved(self) -> "Program":
        """The program at parameters a little away, where what ties by chance does not."""
        wave = "t + .07 * torch.sin(torch.arange(1., t.numel() + 1, dtype=t.dtype) * 2.3).reshape(t.shape)"
        return replace(self, params={name: f"(lambda t: {wave})({code})" for name, code in self.params.items()})

    def renamed(self, old: str, new: str) -> "Program":
        """The program with one value under another name."""

        def in_code(code: str) -> str:
            return re.sub(rf"\b{old}\b", new, code)

        statements = tuple(Statement(name, in_code(code)) for name, code in self.statements)
        return replace(self, statements=statements, results=tuple(map(in_code, self.results)))


def names_in(code: str) -> set[str]:
    """The values, parameters and arguments that code mentions."""
    return set(_NAME.findall(code))


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float64, where it is floating point."""
    return tensor.double() if tensor.is_floating_point() else tensor


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _literal(codes: dict[str, str]) -> str:
    return "{" + ", ".join(f"'{name}': {code}" for name, code in codes.items()) + "}"
