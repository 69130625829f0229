"""A program of several directions as one of a line, so that it is proven like one.

    u = Σ aᵢuᵢ        slope = Σ aᵢ·slopesᵢ        curvature = Σ aᵢaⱼ·curvatureᵢⱼ

The parts uᵢ of a direction u are random, entry by entry, and the aᵢ differ: a number that is wrong, or in another's
place, does not cancel.
"""

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from alpha_func.capture.builder.values import Value
from alpha_func.capture.running.backends import Runnable
from alpha_func.capture.running.proof import Candidate


class AsLine:
    """A program (*inputs, *directions) -> (value, *slopes, *curvatures) of a span, as it is proven.

    Args:
        params: how many tensors a direction has.
        count: how many directions there are.
    """

    def __init__(self, params: int, count: int):
        self._params, self._count = params, count

    def __call__(self, of_span: Candidate) -> Candidate:
        """The candidate (*inputs, *direction) -> (value, slope, curvature)."""
        return Candidate(
            self._run(of_span.run),
            lambda: self._program(of_span.written()),
            lambda: self._run(of_span.finished()),
            lambda: self._program(of_span.anew()),
        )

    def weigh(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Σ aᵢdᵢ."""
        n = self._params
        return [sum((i + 1) * directions[n * i + p] for i in range(self._count)) for p in range(n)]  # type: ignore[misc]

    def _run(self, run: Runnable) -> Runnable:
        def line(*operands: Any) -> Sequence[Any]:
            cut = len(operands) - self._params
            return self._line(run(*operands[:cut], *self._parts(*operands[cut:])))

        return line

    def _program(self, program: fx.GraphModule) -> fx.GraphModule:
        graph = fx.Graph()
        placeholders = program.graph.find_nodes(op="placeholder")
        cut = len(placeholders) - self._params * self._count
        env = {node: graph.node_copy(node) for node in placeholders[:cut]}
        direction = [graph.placeholder(f"along_{i}") for i in range(self._params)]
        parts = graph.call_function(self._parts, tuple(direction))
        for i, node in enumerate(placeholders[cut:]):
            env[node] = graph.call_function(getitem, (parts, i))
        graph.output(graph.call_function(self._line, (graph.graph_copy(program.graph, env),)))
        return fx.GraphModule(program, graph)

    def _parts(self, *direction: Tensor) -> list[Tensor]:
        noise = torch.Generator().manual_seed(0)
        rest, parts = list(direction), []
        for i in range(1, self._count):
            part = [u * torch.randn(u.shape, generator=noise).to(u) for u in direction]
            rest = [r - i * p for r, p in zip(rest, part, strict=True)]
            parts += part
        return [*parts, *(r / self._count for r in rest)]

    def _line(self, numbers: Sequence[Value]) -> tuple[Value, Value, Value]:
        value, k = numbers[0], self._count
        curvatures = iter(numbers[1 + k :])
        slope: Value = sum((i + 1) * numbers[1 + i] for i in range(k))
        pairs = [(i, j) for i in range(k) for j in range(i, k)]
        curvature: Value = sum((1 if i == j else 2) * (i + 1) * (j + 1) * next(curvatures) for i, j in pairs)
        return value, slope, curvature
