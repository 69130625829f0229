"""Curvature from the loss at a few points of the line, as published: GeN, PAL and critical sharpness. All inexact.

    h(α) = L(θ + αd)    p   the probe, a multiple of d    the direction of these ways is d = −g, of slope −‖g‖²

Each is written as a function of h, so that what it gives is apart from how its authors' code moves the parameters:
``benchmarks.studies.forward_passes`` has the error against the probe's size, and what such code changes.
"""

from collections.abc import Callable
from typing import Any

import torch

from alpha_func import tree
from benchmarks.problems import Point, Problem
from benchmarks.ways import Run, way

Line = Callable[[float], float]
RATE = 0.01  # the learning rate that GeN and critical sharpness begin with
DISTANCE = 0.1  # μ, PAL's probe along d/‖d‖


def gen(h: Line, p: float) -> tuple[float, float]:
    """The parabola through h(−p), h(0) and h(p), with p the current learning rate: Bu and Xu (2025), equation 3.4."""
    left, middle, right = h(-p), h(0.0), h(p)
    return (right - left) / (2 * p), (right - 2 * middle + left) / p**2


def pal(h: Line, slope: float, value: float, p: float) -> float:
    """Of the parabola through h(0) and its slope, both of the gradient's pass, and h(p): Mutschler and Zell (2020)."""
    return 2 * (h(p) - value - slope * p) / p**2


def critical_rate(h: Line, p: float, *, tolerance: float = 1 / 16) -> float:
    """Where h is back at h(0): doubling or halving from p, then bisection (Kalra et al. 2026); on a parabola 2α*."""
    value, low, high = h(0.0), p, p
    rising = h(p) > value
    for _ in range(60):
        low, high = (low / 2, low) if rising else (high, high * 2)
        if (h(low) > value) != rising if rising else h(high) > value:
            break
    while 1 - low / high > tolerance:
        middle = (low + high) / 2
        low, high = (low, middle) if h(middle) > value else (middle, high)
    return (low + high) / 2


def along(problem: Problem, point: Point) -> Line:
    """h of a point, without derivatives."""

    def h(alpha: float) -> float:
        with torch.no_grad():
            return float(problem.loss(tree.axpy(alpha, point.direction, point.params), *point.batch))

    return h


@way("GeN", exact=False)
def gen_way(problem: Problem) -> Run:
    """GeN (Bu and Xu 2025): three losses, the probe a learning rate of 0.01. Inexact."""
    return lambda point: gen(along(problem, point), RATE)


@way("PAL", exact=False)
def pal_way(problem: Problem) -> Run:
    """PAL (Mutschler and Zell 2020): the loss, and one 0.1 away; slope and direction given. Inexact."""

    def run(point: Point) -> tuple[Any, Any]:
        h, norm = along(problem, point), float(tree.norm(point.direction))
        return None, pal(h, -(norm**2), h(0.0), DISTANCE / norm)

    return run


@way("critical sharpness", exact=False)
def critical_way(problem: Problem) -> Run:
    """Critical sharpness (Kalra et al. 2026): the rate where the loss is back, by bisection to 1/16. Inexact."""

    def run(point: Point) -> tuple[Any, Any]:
        squared = float(tree.vdot(point.direction, point.direction))
        return None, 2 * squared / critical_rate(along(problem, point), RATE)

    return run
