"""What each rule writes, and with which rules the table of operators was made: ``rules.csv``, by ``verify_operators``.

A rule is known by the calls that it writes for its case, without laws: it may be worded otherwise, and stays itself.
One in torch's functions is known by the functions of its module.
"""

import ast
import csv
import hashlib
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import fx
from torch.utils import _pytree as pytree

from alpha_func import capture
from alpha_func.capture.builder.builder import Builder, fake_mode
from alpha_func.capture.builder.operands import is_inexact
from alpha_func.capture.builder.values import Operator
from alpha_func.capture.derivatives.rule import RULES, Call
from alpha_func.capture.sweeps import taylor  # noqa: F401  fills the table
from tests.helpers.operands import is_of_two

PATH = Path(__file__).with_name("rules.csv")


@cache
def calls() -> dict[Operator, fx.Node]:
    """The first call of each operator with a rule in the program of its case; all cases are one program."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    cases = [(str(i), rule.case, 1 + is_of_two(rule.case)) for i, rule in enumerate(RULES.values())]
    params = {name: [x + 0, x.square()][:operands] for name, _, operands in cases}
    loss = capture(lambda p: sum(case(*p[name]).sum() for name, case, _ in cases))
    program = loss.program(params).graph
    inputs = iter(program.graph.find_nodes(op="placeholder"))
    found = {}
    for operator, (_, _, operands) in zip(RULES, cases, strict=True):
        reached = {next(inputs) for _ in range(operands)}
        for node in program.graph.nodes:
            if not reached.isdisjoint(node.all_input_nodes):
                reached.add(node)
                if node.target is operator:
                    found.setdefault(operator, node)
    return found


def written(operator: Operator) -> str:
    """A word for what the rule of an operator writes."""
    rule, node = RULES[operator], calls()[operator]
    if rule.replaces:  # what torch's functions are traced to depends on torch
        return _word(_formulas(sys.modules[rule.case.__module__]))
    b = Builder({}, fake_mode(node.graph.owning_module))

    def given(name, value):
        return b.placeholder(name, value.meta["val"]) if isinstance(value, fx.Node) else value

    args, kwargs = pytree.tree_map(lambda x: given("x", x), (node.args, node.kwargs))
    tangents = pytree.tree_map(lambda x: given("t", x) if _moves(x) else None, node.args)
    active = pytree.tree_map(_moves, node.args)
    call = Call(operator, args, kwargs, given("y", node))
    several = isinstance(node.meta["val"], (list, tuple))
    λ = [b.placeholder("a", val) for val in node.meta["val"]] if several else given("a", node)
    found = [rule.first(b, call, tangents), rule.second(b, call, tangents)]
    found.append(rule.pullback and rule.pullback(b, call, active, λ))
    b.graph.output(tuple(found))
    return _word(str(b.graph))


def _formulas(module: ModuleType) -> str:
    """What the functions of a module compute, whatever they are documented and annotated as."""
    functions = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.FunctionDef)]
    for node in functions:
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
        if ast.get_docstring(node):
            node.body = node.body[1:]
    return "\n".join(map(ast.unparse, functions))


def _word(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _moves(x: object) -> bool:
    return isinstance(x, fx.Node) and is_inexact(x)


def recorded() -> dict[str, str]:
    """The rules that the table was made with."""
    with PATH.open(newline="") as file:
        return {row["operator"]: row["rule"] for row in csv.DictReader(file)}


def record(verified: Iterable[str]) -> None:
    """Say that the table was made with the rules of these operators as they are now."""
    known = {str(operator): operator for operator in RULES}
    fresh = {name: written(known[name]) for name in verified if name in known}
    rows = {**recorded(), **fresh} if PATH.exists() else fresh
    with PATH.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("operator", "rule"))
        writer.writerows(sorted((name, rule) for name, rule in rows.items() if name in known))
