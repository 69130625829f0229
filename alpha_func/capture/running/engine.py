"""What the transforms run on a captured loss: its Taylor program, and its gradient with the line along it.

    quadratic    value, slope, curvature along a given direction, by one forward sweep (``taylor``)
    descent      gradient, d = −g and the quadratic along it, one program (``adjoint``)
    parts        the gradient; then, for the direction that the caller makes of it, slope and curvature (``adjoint``)

Each is written once for a program and a backend, and kept with the program. Under a transform of torch.func, or where
autograd records, the same programs run operator by operator, so that they can be differentiated and batched in turn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from alpha_func import tree
from alpha_func.capture.builder.active import unverified
from alpha_func.capture.program import CapturedLoss, Program
from alpha_func.capture.running.backends import BACKENDS, Runnable
from alpha_func.capture.sweeps.adjoint import adjoint_programs, steepest_descent_program
from alpha_func.capture.sweeps.taylor import taylor_program
from alpha_func.losses.draws import seeded_rng
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.directions import DirectionFunction
from alpha_func.tree import Tree

GradsLine = tuple[Tree, Tree, Quadratic]


class NotSwept(Exception):  # noqa: N818  not an error
    """A program of which only the double backward has been verified (``cumprod``, ``linalg.solve``)."""


def quadratic(
    captured: CapturedLoss, params: Tree, direction: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Quadratic:
    """The quadratic of a captured loss along a direction, by its Taylor program."""
    program, inputs = _swept(captured, params, args, kwargs)
    operands = [*inputs, *_leaves(direction)]
    value, slope, curvature = _run(captured, program, "quadratic", operands, lambda: taylor_program(*_lowered(program)))
    return Quadratic(value, slope, curvature)


def descent(captured: CapturedLoss, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GradsLine:
    """The gradient, d = −g, and the quadratic along it."""
    program, inputs = _swept(captured, params, args, kwargs)
    value, slope, curvature, *rest = _run(
        captured, program, "descent", inputs, lambda: steepest_descent_program(*_lowered(program))
    )
    grads, directions = rest[: program.params], rest[program.params :]
    return _like(params, grads), _like(params, directions), Quadratic(value, slope, curvature)


def along(
    captured: CapturedLoss, params: Tree, direction: DirectionFunction, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> GradsLine:
    """The gradient, the direction that is made of it, and the quadratic along that."""
    program, inputs = _swept(captured, params, args, kwargs)
    kept = program.schemes
    if "parts" not in kept:
        kept["parts"] = adjoint_programs(*_lowered(program))
    parts = kept["parts"]
    value, *rest = _run(captured, program, "gradient", inputs, lambda: parts.gradient)
    grads, saved = _like(params, rest[: program.params]), rest[program.params :]
    d = direction(grads)
    slope, curvature = _run(captured, program, "line", [*saved, *_leaves(d)], lambda: parts.line)
    return grads, d, Quadratic(value, slope, curvature)


def _swept(
    captured: CapturedLoss, params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Program, list[Tensor]]:
    """The program and its inputs, if the second forward derivative of every operator in it has been verified."""
    program, inputs = captured.lookup(params, args, kwargs)
    verified: bool | None = program.schemes.get("verified")
    if verified is None:
        missing = unverified(program.graph.graph, program.params, "forward_over_forward")
        verified = program.schemes["verified"] = not missing
    if not verified:
        raise NotSwept
    return program, inputs


def _run(
    captured: CapturedLoss, program: Program, name: str, inputs: list[Tensor], write: Callable[[], fx.GraphModule]
) -> Sequence[Any]:
    """Run a scheme of a program, written at the first call and kept."""
    backend = captured.backend if _plain(inputs) else "transformable"
    run: Runnable | None = program.schemes.get((name, backend))
    if run is None:
        if name not in program.schemes:
            program.schemes[name] = write()
        run = program.schemes[name, backend] = BACKENDS[backend](program.schemes[name])
    if program.seed is None:
        return run(*inputs)
    with seeded_rng(program.seed):
        return run(*inputs)


def _plain(inputs: list[Tensor]) -> bool:
    """Whether nobody differentiates or batches this call."""
    if peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs))


def _lowered(program: Program) -> tuple[fx.GraphModule, int]:
    return program.graph, program.params


def _leaves(value: Tree) -> list[Tensor]:
    return list(value.values()) if _is_flat(value) else tree.leaves(value)


def _like(params: Tree, leaves: Sequence[Tensor]) -> Tree:
    if _is_flat(params):
        return dict(zip(params, leaves, strict=True))
    return tree.unflatten(leaves, tree.structure(params))


def _is_flat(value: Tree) -> bool:
    return type(value) is dict and all(isinstance(leaf, Tensor) for leaf in value.values())
