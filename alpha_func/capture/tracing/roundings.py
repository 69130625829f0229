"""What rounding explains: how far the outputs of a program go when every operation in it is rounded anew.

Monte Carlo arithmetic (Parker, 1997): two orders of one computation lie about as far apart as two runs in which every
result x is replaced by x·(1 + ε·u), u uniform in [−1, 1].
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from alpha_func import tree
from alpha_func.calls import Function
from alpha_func.losses.draws import seeded_rng

aten = torch.ops.aten
_EQUALITIES = {aten.eq.Tensor: False, aten.ne.Tensor: True}
_TIED = 8  # disturbances by which two equal numbers part on the way to their comparison
_PIECE = 2**18  # entries that are compared at a time
_POOL = 2**12  # noise is drawn once, and taken from another place in it at every operation


def rounding(tensor: Tensor) -> float:
    """The relative rounding of one operation on a tensor like this."""
    if tensor.is_cuda and tensor.dtype is torch.float32:
        return 2.0**-11  # TF32, which products, convolutions and recurrent nets may or may not be computed in
    return torch.finfo(tensor.dtype).eps


def coarsest(tensors: list[Tensor]) -> float:
    """The rounding of the least precise of the floating tensors."""
    return max((rounding(t) for t in tensors if t.is_floating_point() or t.is_complex()), default=0.0)


def apart(x: Tensor, y: Tensor) -> float:
    """‖x − y‖, entries that are not finite in the same way counted as equal."""
    if x.ndim == 0:
        a, b = float(x), float(y)
        return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else abs(a - b)
    return math.hypot(*map(_piece_apart, _pieces(x), _pieces(y)))


def length(x: Tensor) -> float:
    """‖x‖."""
    return math.hypot(*(float(piece.norm()) for piece in _pieces(x)))


def _piece_apart(x: Tensor, y: Tensor) -> float:
    same = (x == y) | (x.isnan() & y.isnan())
    return float(torch.where(same, 0.0, x - y).norm())


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """The entries in float64, a few at a time."""
    return map(in_double, torch.split(x.detach().reshape(-1), _PIECE))


def in_double(x: Tensor) -> Tensor:
    """In float64; a complex one by its real and imaginary parts."""
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).double()


def seeded(seed: int | None) -> AbstractContextManager[None]:
    """The global generators seeded, where a program draws."""
    return nullcontext() if seed is None else seeded_rng(seed)


def disturbed(program: fx.GraphModule, runs: int, size: float = 1) -> Iterator[Function]:
    """The program a few times over, each with other roundings, ``size`` times those of an operation."""
    for run in range(runs):
        yield Disturbed(program, run, size).run


class Disturbed(fx.Interpreter):
    """A program with every floating result off by a rounding."""

    def __init__(self, program: fx.GraphModule, seed: int, size: float):
        super().__init__(program)
        self._generator = torch.Generator().manual_seed(seed)  # not the generator that the program draws from
        self._size = size
        self._noise: dict[object, Tensor] = {}
        sent = {n for n in program.graph.nodes if getattr(n.target, "namespace", "") == "_c10d_functional"}
        parts = {n for n in program.graph.nodes if n.target is getitem and n.args[0] in sent}
        self._on_its_way = {n for n in sent | parts if "wait" not in str(n.target)}

    def run_node(self, n: fx.Node) -> Any:
        """The result of one operator, disturbed; what would be equal without disturbances is.

        What is still on its way from other ranks is left alone.
        """
        if n.target in _EQUALITIES:
            (x, y), _ = self.fetch_args_kwargs_from_env(n)
            if x.is_floating_point() and y.is_floating_point():
                room = _TIED * self._size * max(rounding(x), rounding(y))
                return ((x == y) | ((x - y).abs() <= room * torch.maximum(x.abs(), y.abs()))) ^ _EQUALITIES[n.target]
        result = super().run_node(n)
        return result if n in self._on_its_way else tree.map(self._disturbed, result)

    def _disturbed(self, value: object) -> object:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        disturbed = value * self._factors(value)
        return torch.where(disturbed.isfinite(), disturbed, value)  # a mask of −∞, or of the least number, stays one

    def _factors(self, value: Tensor) -> Tensor:
        kind, count = (value.dtype, value.device), value.numel()
        pool = self._noise.get(kind)
        if pool is None or pool.numel() < count + _POOL:
            u = 2 * torch.rand(count + _POOL, generator=self._generator, dtype=torch.float64) - 1
            pool = self._noise[kind] = (1 + u * (self._size * rounding(value))).to(value)
        start = int(torch.randint(_POOL, (), generator=self._generator))
        return pool[start : start + count].view(value.shape)
