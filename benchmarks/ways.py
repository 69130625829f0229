"""The ways to dᵀHd, one function each: ``@way(name)`` on a function of a Problem adds it.

The function prepares what a user would prepare once (capture, jit) and returns ``run(point) -> (slope, curvature)``,
whose whole work is timed. A way that gives no slope returns None for it. The ways of torch.func are written raw,
without the guard of alpha_func, so that what they get wrong is seen.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import func

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along, tree
from benchmarks.problems import Point, Problem, gradient

Run = Callable[[Point], tuple[Any, Any]]
WAYS: dict[str, "Way"] = {}
UNIT = "gradient"


class Way(NamedTuple):
    """A registered way.

    Attributes:
        prepare: Problem -> run.
        about: the first sentence of its docstring.
        module: what must be importable; its extra is ``peers``.
        exact: whether its answer is meant to be right to rounding.
        descends: whether it takes d = −g from its own gradient, the point's direction unused.
        gradient: whether it gives a gradient and no curvature: a unit.
        largest: the most parameters it is run with, 0 for no limit.
        slow: compiled for minutes; the quick setting, and the dtype that is not timed, have it on the first model only.
        curve: whether the scaling curves have it.
    """

    prepare: Callable[[Problem], Run]
    about: str
    module: str = ""
    exact: bool = True
    descends: bool = False
    gradient: bool = False
    largest: int = 0
    slow: bool = False
    curve: bool = False

    @property
    def missing(self) -> bool:
        """Whether the package it needs is not installed."""
        return bool(self.module) and find_spec(self.module) is None


def way(name: str, **attributes: Any) -> Callable[[Callable[[Problem], Run]], Callable[[Problem], Run]]:
    """Register a function of a problem as a way."""

    def register(prepare: Callable[[Problem], Run]) -> Callable[[Problem], Run]:
        WAYS[name] = Way(prepare, prepare.__doc__.partition(".\n")[0].rstrip("."), **attributes)
        return prepare

    return register


@way(UNIT, gradient=True, curve=True)
def eager_gradient(problem: Problem) -> Run:
    """One eager gradient of torch.autograd: the unit."""

    def run(point: Point) -> tuple[Any, Any]:
        gradient(problem, point)
        return None, None

    return run


def composition(line: Callable[..., Any]) -> Callable[[Problem], Run]:
    """A way from a function of (loss of the parameters, params, direction)."""

    def prepare(problem: Problem) -> Run:
        return lambda point: line(lambda p: problem.loss(p, *point.batch), point.params, point.direction)

    prepare.__doc__ = line.__doc__
    return prepare


@way("jvp(grad)", curve=True)
@composition
def jvp_of_grad(loss, params, d):
    """torch.func.jvp of torch.func.grad."""
    g, hd = func.jvp(func.grad(loss), (params,), (d,))
    return tree.vdot(d, g), tree.vdot(d, hd)


@way("vjp(grad)")
@composition
def vjp_of_grad(loss, params, d):
    """torch.func.vjp of torch.func.grad."""
    g, pullback = func.vjp(func.grad(loss), params)
    return tree.vdot(d, g), tree.vdot(d, pullback(d)[0])


@way("grad(jvp)")
@composition
def grad_of_jvp(loss, params, d):
    """torch.func.grad of torch.func.jvp."""
    hd, slope = func.grad_and_value(lambda p: func.jvp(loss, (p,), (d,))[1])(params)
    return slope, tree.vdot(d, hd)


@way("jvp(jvp)", curve=True)
@composition
def jvp_of_jvp(loss, params, d):
    """torch.func.jvp of torch.func.jvp."""
    return func.jvp(lambda p: func.jvp(loss, (p,), (d,))[1], (params,), (d,))


@way("double backward", curve=True)
def double_backward(problem: Problem) -> Run:
    """torch.autograd.grad twice, written by hand."""

    def run(point: Point) -> tuple[Any, Any]:
        d = list(point.direction.values())
        slope = tree.vdot(d, list(gradient(problem, point, graph=True)))
        return slope.detach(), tree.vdot(d, list(torch.autograd.grad(slope, list(problem.named.values()))))

    return run


def own(verb: Callable[..., Any], **options: Any) -> Callable[[Problem], Run]:
    """``quadratic_along`` or ``grad_and_quadratic`` of the module's loss, captured where there are options."""

    def prepare(problem: Problem) -> Run:
        loss, _ = functional_loss(problem.module, problem.criterion)
        transform = verb(capture(loss, **options) if options else loss)

        def run(point: Point) -> tuple[Any, Any]:
            if verb is quadratic_along:
                quadratic = transform(point.params, point.direction, *point.batch)
            else:
                quadratic = transform(point.params, *point.batch).quadratic
            return quadratic.slope, quadratic.curvature

        return run

    how = f"captured, {options['backend']}" if options else "as it is: guarded double backward"
    prepare.__doc__ = f"alpha_func.{verb.__name__}, the loss {how}."
    return prepare


way("quadratic_along")(own(quadratic_along))
way("quadratic_along captured", curve=True)(own(quadratic_along, backend="eager"))
way("quadratic_along inductor", slow=True)(own(quadratic_along, backend="inductor"))
way("grad_and_quadratic", descends=True)(own(grad_and_quadratic))
way("grad_and_quadratic captured", descends=True, curve=True)(own(grad_and_quadratic, backend="eager"))
way("grad_and_quadratic inductor", descends=True, slow=True)(own(grad_and_quadratic, backend="inductor"))


def compiled(line: Callable[..., Any]) -> Callable[[Problem], Run]:
    """A way from the torch.compile of a composition."""

    def prepare(problem: Problem) -> Run:
        def whole(params, d, inputs, targets):
            return line(lambda p: problem.loss(p, inputs, targets), params, d)

        run = torch.compile(whole, fullgraph=True)
        return lambda point: run(point.params, point.direction, *point.batch)

    prepare.__doc__ = line.__doc__
    return prepare


@way("torch.compile jvp(grad)", slow=True)
@compiled
def compiled_jvp_of_grad(loss, params, d):
    """torch.compile of jvp(grad)."""
    g, hd = func.jvp(func.grad(loss), (params,), (d,))
    return sum((d[name] * g[name]).sum() for name in d), sum((d[name] * hd[name]).sum() for name in d)


@way("torch.compile jvp(jvp)", slow=True)
@compiled
def compiled_jvp_of_jvp(loss, params, d):
    """torch.compile of jvp(jvp)."""
    return func.jvp(lambda p: func.jvp(loss, (p,), (d,))[1], (params,), (d,))


@way("differences of the loss", exact=False)
def loss_differences(problem: Problem) -> Run:
    """Central differences of L, three evaluations, the step eps^(1/4)·(1 + ‖θ‖)/‖d‖. Inexact."""

    def run(point: Point) -> tuple[Any, Any]:
        step = step_size(point, 1 / 4)
        with torch.no_grad():
            left, middle, right = (
                problem.loss(tree.axpy(a, point.direction, point.params), *point.batch) for a in (-step, 0.0, step)
            )
        return (right - left) / (2 * step), (right - 2 * middle + left) / step**2

    return run


@way("differences of the gradient", exact=False)
def gradient_differences(problem: Problem) -> Run:
    """Central differences of g, two gradients, the step eps^(1/3)·(1 + ‖θ‖)/‖d‖. Inexact."""

    def run(point: Point) -> tuple[Any, Any]:
        d, step = point.direction, step_size(point, 1 / 3)
        left, right = (
            tree.vdot(d, func.grad(problem.loss)(tree.axpy(a, d, point.params), *point.batch)) for a in (-step, step)
        )
        return (right + left) / 2, (right - left) / (2 * step)

    return run


def step_size(point: Point, power: float) -> float:
    """Balances rounding against truncation for a loss whose derivatives are of one size."""
    eps = torch.finfo(next(iter(point.params.values())).dtype).eps
    return eps**power * (1 + float(tree.norm(point.params))) / float(tree.norm(point.direction))


@way("dense Hessian", largest=200)
def dense_hessian(problem: Problem) -> Run:
    """The whole H by one double backward a row, then dᵀHd."""

    def run(point: Point) -> tuple[Any, Any]:
        parameters = list(problem.named.values())
        g = torch.cat([part.flatten() for part in gradient(problem, point, graph=True)])
        rows = [torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True) for entry in g]
        hessian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        d = torch.cat([part.flatten() for part in point.direction.values()])
        return d @ g.detach(), d @ hessian @ d

    return run
