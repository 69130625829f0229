"""A program with every law applied, in one pass.

Common subexpressions are found by the ``Builder``; dead code is left out at the end.
"""

from torch import fx

from alpha_func.capture.builder.builder import Builder, fake_mode, finished, replay
from alpha_func.capture.rewrites import LAWS


def simplify(module: fx.GraphModule) -> fx.GraphModule:
    """The program with every law applied, common subexpressions shared and dead code left out.

    ``detach`` stays: a program of the sweeps may be differentiated again, and stops derivatives where the loss does.

    >>> import torch
    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> program = make_fx(lambda x: x.t().t() * 1 + torch.zeros_like(x) * x)(torch.ones(2, 3))
    >>> [node.op for node in simplify(program).graph.nodes]
    ['placeholder', 'output']
    """
    builder = Builder(LAWS, fake_mode(module))
    inputs = [
        builder.placeholder(str(node.target), builder.as_fake(node.meta["val"]))
        for node in module.graph.find_nodes(op="placeholder")
    ]
    return finished(builder, replay(module, inputs, builder))
