"""A program rewritten by a table of laws, in one pass.

Common subexpressions are found by the ``Builder``; dead code is left out at the end.
"""

from torch import fx

from alpha_func.capture.builder.builder import Builder, fake_mode, finished, replay
from alpha_func.capture.rewrites.table import Table


def rewrite(program: fx.GraphModule, *tables: Table) -> fx.GraphModule:
    """The program by the laws of one table after the other; itself where they have nothing to say.

    ``detach`` stays: a program of the sweeps may be differentiated again, and stops derivatives where the loss does.

    >>> import torch
    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> from alpha_func.capture.rewrites import LAWS
    >>> program = make_fx(lambda x: x.t().t() * 1 + torch.zeros_like(x) * x)(torch.ones(2, 3))
    >>> [node.op for node in rewrite(program, LAWS).graph.nodes]
    ['placeholder', 'output']
    """
    for table in tables:
        if table.speaks_of(program):
            b = Builder(table, fake_mode(program), table.apart)
            program = finished(b, replay(program, b.inputs_of(program), b, b.count_uses))
    return program
