"""JAX on the same weights and batch: its compiled gradient, jvp(grad), and jet. The CPU's threads are those of torch.

A run carries ``peak_bytes(point)``: what XLA has reserved for temporaries and results, the arguments aside.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.problems import Point, Problem
from benchmarks.ways import Run, way


class Compiled:
    """A function of (params, direction, inputs, targets) under jax.jit."""

    def __init__(self, problem: Problem, function: Callable[..., Any]):
        import jax

        if next(iter(problem.named.values())).dtype.itemsize == 8:
            jax.config.update("jax_enable_x64", True)
        self.block, self.jitted = jax.block_until_ready, jax.jit(function)

    def __call__(self, point: Point) -> tuple[Any, Any]:
        params, batch, d = point.arrays
        found = self.block(self.jitted(params, d, *batch))
        return found if isinstance(found, tuple) else (None, None)

    def peak_bytes(self, point: Point) -> int:
        """Of the compiled program."""
        params, batch, d = point.arrays
        memory = self.jitted.lower(params, d, *batch).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes


def loss_of(problem: Problem) -> Callable[..., Any]:
    """The model's loss in JAX; the gradient at ties is no part of these models."""
    if not problem.case.jax:
        raise NotImplementedError("the model has no loss in benchmarks.jax_nets")
    from benchmarks import jax_nets

    return getattr(jax_nets, problem.case.jax)


def dot(d: Any, g: Any) -> Any:
    """dᵀg."""
    return sum((d[name] * g[name]).sum() for name in d)


@way("JAX gradient", module="jax", slow=True, gradient=True, curve=True)
def jax_gradient(problem: Problem) -> Run:
    """jax.jit(jax.grad): the unit of JAX's own ratios."""
    import jax

    loss = loss_of(problem)
    return Compiled(problem, lambda params, d, *batch: jax.grad(loss)(params, *batch))


@way("JAX jvp(grad)", module="jax", slow=True, curve=True)
def jax_jvp_of_grad(problem: Problem) -> Run:
    """jax.jit of jax.jvp of jax.grad."""
    import jax

    loss = loss_of(problem)

    def line(params: Any, d: Any, *batch: Any) -> tuple[Any, Any]:
        g, hd = jax.jvp(lambda p: jax.grad(loss)(p, *batch), (params,), (d,))
        return dot(d, g), dot(d, hd)

    return Compiled(problem, line)


@way("JAX jet", module="jax", slow=True, curve=True)
def jax_jet(problem: Problem) -> Run:
    """jax.jit of jax.experimental.jet.jet, to second order."""
    import jax
    from jax.experimental.jet import jet

    loss = loss_of(problem)

    def line(params: Any, d: Any, *batch: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(params)
        directions = jax.tree.leaves(d)

        def flat(*leaves: Any) -> Any:
            return loss(jax.tree.unflatten(structure, leaves), *batch)

        _, (slope, curvature) = jet(flat, leaves, [[t, t * 0] for t in directions])
        return slope, curvature

    return Compiled(problem, line)
