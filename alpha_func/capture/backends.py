"""How a finished program is run: operator by operator, or compiled.

Both take the flat inputs and return the flat outputs. A program that draws random numbers draws those that eager
PyTorch draws, in its order, whatever the backend: the draws run eagerly and are given to the compiled rest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func.capture.building import fake_mode, is_impure
from alpha_func.capture.fusing import fuse
from alpha_func.capture.reusing import reuse
from alpha_func.capture.whole import in_primitives

Runnable = Callable[..., Sequence[Any]]
Backend = Callable[[fx.GraphModule], Runnable]


def eager(program: fx.GraphModule) -> Runnable:
    """The program operator by operator, in fused kernels and in place where that can be."""
    forward = reuse(fuse(program)).forward

    def run(*inputs: Any) -> Sequence[Any]:
        # The programs are derivatives already: below autograd each call costs less.
        with torch._C._AutoDispatchBelowAutograd():
            return forward(*inputs)

    return run


def transformable(program: fx.GraphModule) -> Runnable:
    """The program operator by operator, for torch.func and autograd to differentiate and batch."""
    return fuse(in_primitives(program)).forward


def inductor(program: fx.GraphModule) -> Runnable:
    """The program compiled by TorchInductor; one that draws random numbers runs eagerly, to draw the same."""
    if any(is_impure(node.target) for node in program.graph.nodes):
        return eager(program)
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    program = in_primitives(program)
    mode = fake_mode(program)
    inputs = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder")]
    with mode:
        # One fake tensor for each input: make_fx tells them apart by identity.
        distinct = [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) for v in inputs]
        traced = make_fx(program, decomposition_table=select_decomp_table())(*distinct)
    with torch._guards.tracing(torch._guards.TracingContext(mode)):
        compiled = compile_fx_inner(traced, distinct)

    strides = [tensor.stride() for tensor in distinct]

    def run(*inputs: Any) -> Sequence[Any]:
        return compiled([_laid_out(tensor, stride) for tensor, stride in zip(inputs, strides, strict=True)])

    return run


def _laid_out(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The tensor with the strides it was compiled for."""
    if tensor.stride() == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


BACKENDS: dict[str, Backend] = {"eager": eager, "inductor": inductor, "transformable": transformable}
