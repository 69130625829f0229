"""What every way is given: a module, its criterion, and points on its loss; and the reference, in float64.

    θ   the parameters    g = ∇L(θ)    H = ∇²L(θ)    d = −g, rounded to float32
    slope = dᵀg    curvature = dᵀHd

All numbers are drawn in float32 and cast from there, so a problem in float64 is the same one.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alpha_func import tree

Params = dict[str, Tensor]


class Case(NamedTuple):
    """What a model function returns.

    Attributes:
        module: the network, in float32.
        criterion: (outputs, targets) -> the scalar loss.
        draw: () -> (inputs, targets), a batch from torch's generator.
        jax: the name of its loss in benchmarks.jax_nets, "" where it has none.
    """

    module: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    draw: Callable[[], tuple[Tensor, Tensor]]
    jax: str = ""


@dataclass(frozen=True)
class Point:
    """Parameters, a batch and a direction."""

    params: Params
    batch: tuple[Tensor, Tensor]
    direction: Params

    def to(self, device: str, dtype: torch.dtype) -> "Point":
        """The same point elsewhere; integers stay integers."""

        def cast(leaf: Tensor) -> Tensor:
            return leaf.to(device, dtype if leaf.is_floating_point() else None)

        return Point(*tree.map(cast, (self.params, self.batch, self.direction)))

    @cached_property
    def arrays(self) -> Any:
        """(params, batch, direction) for JAX."""
        from benchmarks.jax_nets import array

        return tree.map(array, (self.params, self.batch, self.direction))


class Problem:
    """A case at a few points."""

    def __init__(self, case: Case, points: list[Point], device: str, dtype: torch.dtype):
        self.case = case
        self.module = copy.deepcopy(case.module).to(device, dtype)
        self.criterion = case.criterion
        self.points = [point.to(device, dtype) for point in points]
        self.named = dict(self.module.named_parameters())
        self._loaded: Params | None = None

    def at(self, point: Point) -> nn.Module:
        """The module with the parameters of a point; nothing is done where it has them already."""
        if self._loaded is not point.params:
            with torch.no_grad():
                for name, value in point.params.items():
                    self.named[name].copy_(value)
            self._loaded = point.params
        return self.module

    def value(self, point: Point) -> Tensor:
        """L(θ) with the module's own parameters, which autograd records."""
        inputs, targets = point.batch
        return self.criterion(self.at(point)(inputs), targets)

    def loss(self, params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        """L as a pure function of the parameters, as one writes it with torch.func; buffers cloned (BatchNorm)."""
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        return self.criterion(torch.func.functional_call(self.module, {**params, **buffers}, (inputs,)), targets)


def gradient(problem: Problem, point: Point, *, graph: bool = False) -> tuple[Tensor, ...]:
    """One eager gradient: the unit of every time and memory."""
    return torch.autograd.grad(problem.value(point), list(problem.named.values()), create_graph=graph)


def draw_points(case: Case, count: int) -> list[Point]:
    """Batches at the initial parameters, each with its steepest descent as the direction."""
    params = {name: p.detach().clone() for name, p in case.module.named_parameters()}
    blank = [Point(params, case.draw(), {}) for _ in range(count)]
    problem = Problem(case, blank, "cpu", torch.float64)
    points = []
    for point, exact in zip(blank, problem.points, strict=True):
        direction = {name: -g.float() for name, g in zip(params, gradient(problem, exact), strict=True)}
        points.append(Point(params, point.batch, direction))
    return points


class Truth(NamedTuple):
    """The reference at a point, and what its errors are measured against where terms cancel."""

    slope: float
    curvature: float
    slope_scale: float
    curvature_scale: float


def truths(case: Case, points: list[Point], *, descent: bool = False) -> list[Truth]:
    """By double backward in float64 of the module called directly: right for every operator of these models.

    Attention runs as products and a softmax; its fused kernels have no second derivative. With ``descent``, along the
    unrounded −g, for ways that take no direction.
    """
    problem = Problem(case, points, "cpu", torch.float64)
    parameters, found = list(problem.named.values()), []
    for point in problem.points:
        with sdpa_kernel(SDPBackend.MATH):
            grads = list(gradient(problem, point, graph=True))
            d = [-g.detach() for g in grads] if descent else [point.direction[name] for name in problem.named]
            slope = tree.vdot(d, grads)
            hd = list(torch.autograd.grad(slope, parameters))
        grads, slope = [g.detach() for g in grads], slope.detach()
        norm = float(tree.norm(d))
        scales = norm * float(tree.norm(grads)), norm * float(tree.norm(hd))
        found.append(Truth(float(slope), float(tree.vdot(d, hd)), *scales))
    return found
