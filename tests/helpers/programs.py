"""Captured programs of a case, run on its batch."""

import torch

from alpha_func import Quadratic, capture, tree
from alpha_func.capture.running.backends import BACKENDS
from alpha_func.capture.sweeps.adjoint import adjoint_programs, steepest_descent_program
from alpha_func.capture.sweeps.taylor import taylor_program

__all__ = ["BACKENDS", "adjoint", "compiled", "descent", "lowered_case", "taylor"]


def lowered_case(case):
    return capture(case.loss).program(case.params, *case.args).graph


def compiled(program, backend="eager"):
    return BACKENDS[backend](program)


def _inputs(case):
    torch.manual_seed(0)  # functional_loss draws from this seed
    leaves, structure = tree.flatten(case.params)
    return leaves, structure, capture(case.loss).lookup(case.params, case.args, {})[1]


def taylor(lowered, case, backend="eager"):
    leaves, _, inputs = _inputs(case)
    return Quadratic(*compiled(taylor_program(lowered, len(leaves)), backend)(*inputs, *tree.leaves(case.direction)))


def adjoint(lowered, case, backend="eager"):
    leaves, structure, inputs = _inputs(case)
    programs = adjoint_programs(lowered, len(leaves))
    value, *rest = compiled(programs.gradient, backend)(*inputs)
    grads, saved = rest[: len(leaves)], rest[len(leaves) :]
    slope, curvature = compiled(programs.line, backend)(*saved, *tree.leaves(case.direction))
    return tree.unflatten(grads, structure), Quadratic(value, slope, curvature)


def descent(lowered, case, backend="eager"):
    leaves, structure, inputs = _inputs(case)
    n = len(leaves)
    program = compiled(steepest_descent_program(lowered, n), backend)
    value, slope, curvature, *rest = program(*inputs)
    parts = (tree.unflatten(part, structure) for part in (rest[:n], rest[n:]))
    return *parts, Quadratic(value, slope, curvature)
