"""The program that everything is differentiated from: the loss's, without what PyTorch differentiates otherwise."""

import torch
from torch import fx

from alpha_func.capture.builder.builder import Builder, fake_mode, finished, replay
from alpha_func.capture.rewrites import magnitudes, strides, symmetric

_LAWS = {**magnitudes.LAWS, **strides.LAWS, **symmetric.LAWS}
_SIGNS = (
    magnitudes.SQUARES.keys() | strides.LAWS.keys() | symmetric.LAWS.keys()
)  # without one of these, no law has anything to say


def differentiable(program: fx.GraphModule) -> fx.GraphModule:
    """The same values in any strides, with derivatives at zeros and of symmetric matrices; itself where it has them."""
    if _SIGNS.isdisjoint(node.target for node in program.graph.nodes):
        return program
    b = Builder(
        _LAWS, fake_mode(program), apart={torch.ops.aten.detach.default}
    )  # each may be a leaf of the loss's own
    inputs = [b.placeholder(str(n.target), n.meta["val"]) for n in program.graph.find_nodes(op="placeholder")]
    return finished(b, replay(program, inputs, b))
