"""How a finished program is run: operator by operator, or compiled.

Both take the flat inputs and return the flat outputs. A program that draws random numbers draws those that eager
PyTorch draws, in its order, whatever the backend: the draws run eagerly and are given to the compiled rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func.capture.builder.active import ancestors
from alpha_func.capture.builder.builder import fake_mode, is_impure
from alpha_func.capture.rewrites import CHANNELS_LAST, FUSED, IN_PRIMITIVES, rewrite
from alpha_func.capture.running.binding import bind, bound
from alpha_func.capture.running.reusing import reuse
from alpha_func.torch_private import compiled_by_inductor, dispatch_below_autograd, inductor_decompositions

Runnable = Callable[..., Sequence[Tensor]]
Backend = Callable[[fx.GraphModule], Runnable]


def finish(program: fx.GraphModule) -> fx.GraphModule:
    """The program as it runs operator by operator: in fused kernels, and in place where that can be."""
    finished = reuse(rewrite(program, CHANNELS_LAST, FUSED))
    return bound(finished, finished.graph)


def eager(program: fx.GraphModule) -> Runnable:
    """The program operator by operator, finished here."""
    return below_autograd(finish(program))


def below_autograd(finished: fx.GraphModule) -> Runnable:
    """A finished program, operator by operator."""
    forward = finished.forward

    def run(*inputs: object) -> Sequence[Tensor]:
        # The programs are derivatives already: below autograd each call costs less.
        with dispatch_below_autograd():
            return forward(*inputs)

    return run


def transformable(program: fx.GraphModule) -> Runnable:
    """The program operator by operator, for torch.func and autograd to differentiate and batch."""
    return bind(rewrite(program, IN_PRIMITIVES, FUSED)).forward


def inductor(program: fx.GraphModule) -> Runnable:
    """The program compiled by TorchInductor, which is given the program's random draws."""
    drawn_by = [node for node in program.graph.nodes if is_impure(node.target)]
    if not drawn_by:
        return _compiled(program)
    if not all(isinstance(node.meta["val"], Tensor) for node in drawn_by):
        return eager(program)  # rrelu, whose draw is one of several outputs
    draws, rest = draws_first(program)
    draw, run_rest = draws.forward, _compiled(rest)

    def run(*inputs: Any) -> Sequence[Any]:
        with dispatch_below_autograd():
            drawn = draw(*inputs)
        return run_rest(*inputs, *drawn)

    return run


def draws_first(program: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The program in two: (*inputs) -> draws, in their order, by what they depend on; (*inputs, *draws) -> outputs."""
    draws = [node for node in program.graph.nodes if is_impure(node.target)]
    needed = ancestors(draws)
    first = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" or node in needed:
            env[node] = first.node_copy(node, env.__getitem__)
    first.output(tuple(env[node] for node in draws))
    return fx.GraphModule(program, first), _given(program, draws)


def _given(program: fx.GraphModule, nodes: list[fx.Node]) -> fx.GraphModule:
    """The program with some of its values as further inputs: (*inputs, *values) -> outputs."""
    graph = fx.Graph()
    env = {node: graph.node_copy(node) for node in program.graph.find_nodes(op="placeholder")}
    for i, node in enumerate(nodes):
        env[node] = graph.placeholder(f"given_{i}")
        env[node].meta["val"] = node.meta["val"]
    for node in program.graph.nodes:
        if node not in env:
            env[node] = graph.node_copy(node, env.__getitem__)
    graph.eliminate_dead_code()
    return fx.GraphModule(program, graph)


def _compiled(program: fx.GraphModule) -> Runnable:
    program = rewrite(program, IN_PRIMITIVES, CHANNELS_LAST)
    mode = fake_mode(program)
    held = program.graph.find_nodes(op="get_attr")  # a trace on fake tensors takes no real ones
    constants = [getattr(program, str(node.target)) for node in held]
    program = _given(program, held)
    inputs = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder")]
    with mode:
        # One fake tensor for each input: make_fx tells them apart by identity.
        distinct = [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) for v in inputs]
        traced = make_fx(program, decomposition_table=inductor_decompositions())(*distinct)
    compiled = compiled_by_inductor(traced, distinct, mode)
    strides = [tensor.stride() for tensor in distinct]

    def run(*inputs: object) -> Sequence[Tensor]:
        operands = zip((*inputs, *constants), strides, strict=True)
        return compiled([_laid_out(tensor, stride) for tensor, stride in operands])

    return run


def _laid_out(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The tensor with the strides it was compiled for."""
    if tensor.stride() == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


BACKENDS: dict[str, Backend] = {"eager": eager, "inductor": inductor, "transformable": transformable}
