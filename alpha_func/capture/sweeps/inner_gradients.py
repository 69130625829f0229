"""Derivatives that a loss takes of itself by ``torch.autograd.grad``, written into its program.

    g = ∂⟨outputs, λ⟩/∂inputs     within the loss: of a physics-informed net, a gradient penalty, a force, an inner step

While the loss is lowered such a call is one operator, ``alpha_func::gradient``, that nothing sees into. Then the
backward sweep of the calls between its inputs and its outputs is written in its place: primitive operators again, to be
differentiated like any others.
"""

from collections.abc import Sequence
from inspect import signature
from itertools import takewhile
from operator import getitem

import torch
from torch import Tensor, fx

from alpha_func.capture.builder.builder import Builder, fake_mode
from alpha_func.capture.builder.operands import filled_like, is_inexact
from alpha_func.capture.builder.values import Value
from alpha_func.capture.derivatives.rule import Call
from alpha_func.capture.rewrites import LAWS
from alpha_func.capture.sweeps.sweep import Coefficients, adjoints
from alpha_func.errors import CaptureError

aten = torch.ops.aten

_SCHEMA = "(Tensor[] outputs, Tensor[] inputs, Tensor?[] seeds, bool create_graph) -> Tensor[]"
torch.library.define("alpha_func::gradient", _SCHEMA)
_gradient = torch.ops.alpha_func.gradient.default
_arguments = signature(torch.autograd.grad)


@torch.library.register_fake("alpha_func::gradient")  # type: ignore[untyped-decorator]
def _shapes(
    outputs: list[Tensor], inputs: list[Tensor], seeds: list[Tensor | None], create_graph: bool
) -> list[Tensor]:
    return [torch.empty_like(x) for x in inputs]


def gradient(*args: object, **kwargs: object) -> Sequence[Tensor]:
    """``torch.autograd.grad`` as one operator, of the same arguments; zeros where an input is not used."""
    given = _arguments.bind(*args, **kwargs)
    given.apply_defaults()
    outputs, inputs, seeds, _, create_graph, *_ = given.args
    if given.arguments["is_grads_batched"]:
        raise CaptureError("torch.autograd.grad(..., is_grads_batched=True) within a loss: use torch.func.vmap")
    outputs, inputs = _several(outputs), _several(inputs)
    seeds = [None] * len(outputs) if seeds is None else _several(seeds)
    return tuple(_gradient(outputs, inputs, seeds, bool(create_graph)))


def write_a_gradient(program: fx.GraphModule) -> bool:
    """Write the first gradient of a program in primitive operators, in its place; whether there was one."""
    node = next(iter(program.graph.find_nodes(op="call_function", target=_gradient)), None)
    if node is None:
        return False
    outputs, inputs, seeds, create_graph = node.args
    before = list(takewhile(lambda n: n is not node, program.graph.nodes))
    calls = {n: Call(n.target, n.args, n.kwargs, n) for n in before if n.op == "call_function"}
    b = Builder(LAWS, fake_mode(program))
    b.graph = program.graph
    with program.graph.inserting_before(node):
        start: Coefficients = {}
        for output, seed in zip(outputs, seeds, strict=True):
            seed = filled_like(b, output, 1) if seed is None else seed
            start[output] = b.call(aten.add.Tensor, start[output], seed) if output in start else seed
        found = adjoints(b, calls, [x for x in inputs if is_inexact(x)], start)
        grads = [found[x] if x in found else filled_like(b, x, 0) for x in inputs]
        if not create_graph:
            grads = [b.call(aten.detach.default, g) for g in grads]
    for user in list(node.users):
        assert user.target is getitem
        user.replace_all_uses_with(grads[user.args[1]])
        program.graph.erase_node(user)
    program.graph.erase_node(node)
    for name, tensor in b.constants.items():
        setattr(program, name, tensor)
    program.recompile()
    return True


def _several(tensors: Value) -> list[Value]:
    if isinstance(tensors, dict):
        tensors = tensors.values()
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)
