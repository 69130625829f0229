"""Operators of a symmetric matrix: their derivatives are those of its symmetric part.

A Cholesky factor and the eigenvalues read one triangle, PyTorch's gradient is symmetric, and its forward mode takes the
tangent as it comes: three numbers along a direction that is not symmetric. Written of A + (S − S stopped), S the
symmetric part, the value stays, and every derivative is the gradient's.
"""

import torch

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law, plus, times
from alpha_func.capture.builder.operands import conjugate, is_complex
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import DIFFERENTIABLE

aten = torch.ops.aten


def _of_symmetric(target: Operator) -> Law:
    def derivatives_are_of_the_symmetric_part(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """f(A) = f(S + stopped(A − S)), S = (A + Aᴴ)/2."""
        a, *rest = args
        across = b.call(aten.transpose.int, a, -2, -1)
        if is_complex(a):
            across = conjugate(b, across)
        part = times(b, plus(b, a, across), 0.5)
        left = b.call(aten.detach.default, plus(b, a, times(b, part, -1)))
        return b.write(target, plus(b, part, left), *rest, **kwargs)

    return derivatives_are_of_the_symmetric_part


for _target in (aten.linalg_cholesky_ex.default, aten._linalg_eigh.default):
    DIFFERENTIABLE.law(_target)(_of_symmetric(_target))
