"""A second opinion on a quadratic: differences along the line, and another route."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture import CapturedLoss, capture
from alpha_func.capture.sharded.engine import has_shards
from alpha_func.errors import StrategyError
from alpha_func.losses.in_double import doubled, loss_in_double
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.doubts import being_checked, settle
from alpha_func.transforms.strategies import DEFAULT_STRATEGY, STRATEGIES, StrategyLike
from alpha_func.transforms.validation import aligned, check_params
from alpha_func.transforms.verbs import quadratic_along
from alpha_func.tree import Tree
from alpha_func.verified.differences import differences

__all__ = ["QuadraticCheck", "check_quadratic"]

_TOLERANCE = 1e-6  # what extrapolated differences resolve of a second derivative in float64
_OF_SHARDS = (
    "check_quadratic evaluates the whole loss in one process, and the parameters are sharded (DTensors): "
    "capture(loss, strict=True) compares the program with the module's own forward and with forward derivatives at its "
    "first two calls"
)
_KINKED = (
    "the finite differences prove nothing: a kink (ReLU, max-pooling) or a value that is not finite lies between them"
)


@dataclass(frozen=True)
class QuadraticCheck:
    """One quadratic computed in three ways, in float64; print it.

    Attributes:
        quadratic: by the strategy that is checked.
        differences: by extrapolated central differences along the line.
        other: by an independent route; None where no other runs.
        route: what that route is.
        smooth: whether the differences converge; if not, they are not evidence.
        tolerance: of each number, in its own units.
        change: the most that the loss changes within the first of the differences' steps.
    """

    quadratic: Quadratic
    differences: Quadratic
    other: Quadratic | None
    route: str
    smooth: bool
    tolerance: Quadratic
    change: float

    @property
    def agrees(self) -> bool:
        """Whether there is a route that is evidence, and every one gives the same three numbers."""
        return not self.parts

    @property
    def parts(self) -> list[str]:
        """Where routes part: which number, against which route, by how much."""
        found = []
        routes = {"differences": self.differences if self.smooth else None, self.route: self.other}
        for route, quadratic in routes.items():
            for name in Quadratic._fields if quadratic is not None else ():
                got, expected = float(getattr(self.quadratic, name)), float(getattr(quadratic, name))
                if not abs(got - expected) <= float(getattr(self.tolerance, name)):
                    found.append(f"{name} is {got:.9g}, by {route} {expected:.9g}")
        if not self.smooth:
            if self.other is None:
                found.append("these numbers have not been checked: no independent method runs on this loss")
            flat = float(self.quadratic.slope) == float(self.quadratic.curvature) == 0
            if flat and self.change > float(self.tolerance.value):
                found.append(f"slope and curvature are 0, but the loss changes by {self.change:.3g} along the line")
        return found

    def __str__(self) -> str:
        rows = {"checked": self.quadratic, "differences": self.differences}
        if self.other is not None:
            rows[self.route] = self.other
        width = max(map(len, rows))
        lines = [f"{'':{width}}  {'value':>16} {'slope':>16} {'curvature':>16}"]
        for name, quadratic in rows.items():
            lines.append(f"{name:{width}}  " + " ".join(f"{float(number):16.9g}" for number in quadratic))
        lines += [] if self.smooth else [_KINKED]
        lines += self.parts or ["they agree"]
        return "\n".join(lines)


def check_quadratic(
    loss: Callable[..., Tensor],
    params: Tree,
    direction: Tree,
    *args: object,
    strategy: StrategyLike | None = None,
    **kwargs: object,
) -> QuadraticCheck:
    """Compare ``quadratic_along(loss)`` with extrapolated differences of L(θ + αd) and with an independent route.

    Everything runs in float64: parameters, direction, arguments, and the state of a module from ``functional_loss``.
    Finite differences across a kink do not converge. That is not counted as an error: ``smooth`` is then False.

    An operator whose second derivative was never verified (an ``autograd.Function``, a custom operator), of which a
    verb warns, is verified by a check that agrees and is smooth: under this strategy, as long as the process lives.

    Args:
        loss: as for ``quadratic_along``; of a captured loss, what would run is checked, by the same backend.
        params, direction, args, kwargs: as for ``quadratic_along``.
        strategy: the one to check; left out, that of ``quadratic_along``.

    Returns:
        A QuadraticCheck: ``agrees``, ``parts`` (where and by how much), and all the numbers. About sixty evaluations of
        the loss and two quadratics.

    Raises:
        As ``quadratic_along``; a StrategyError among them is the library's own answer to the question.

    >>> import torch
    >>> check = check_quadratic(lambda x: x.exp().sum(), torch.zeros(2), torch.ones(2))
    >>> check.agrees, check.smooth
    (True, True)
    """
    check_params(params)
    direction = aligned(params, direction, "direction")
    if has_shards(params, loss):
        raise StrategyError(_OF_SHARDS)
    captured = isinstance(loss, CapturedLoss)
    plain = checked = loss_in_double(loss.loss if isinstance(loss, CapturedLoss) else loss)
    params, direction, args, kwargs = tree.map(doubled, (params, direction, args, kwargs))
    if isinstance(loss, CapturedLoss):
        checked = loss.over(plain)
    with being_checked() as doubts:
        quadratic = quadratic_along(checked, strategy=strategy)(params, direction, *args, **kwargs)
    with being_checked():
        route, other = _independent(plain, captured, strategy or DEFAULT_STRATEGY, params, direction, args, kwargs)

    def h(alpha: float) -> float:
        return float(plain(tree.axpy(alpha, direction, params), *args, **kwargs))

    norm = float(tree.norm(direction)) or 1.0
    reaches = (0.05, 0.004, 0.0004)
    found = differences(h, 1 / norm, reaches)
    change = max(abs(h(side * reaches[0] / norm) - found.value) for side in (-1, 1))
    by_differences = Quadratic(*map(quadratic.value.new_tensor, (found.value, found.slope, found.curvature)))
    scale = quadratic.value.new_tensor(found.scale * _TOLERANCE)
    tolerance = Quadratic(abs(quadratic.value) * _TOLERANCE + 1e-12, scale / norm, scale)
    check = QuadraticCheck(quadratic, by_differences, other, route, found.smooth, tolerance, change)
    if check.agrees and check.smooth:
        settle(doubts)
    return check


def _independent(
    loss: Callable[..., Tensor],
    captured: bool,
    strategy: StrategyLike,
    params: Tree,
    direction: Tree,
    args: Args,
    kwargs: Kwargs,
) -> tuple[str, Quadratic | None]:
    """The first that runs: the program differentiated forward, or eager strategies other than the checked one."""
    routes: list[tuple[str, Callable[..., Tensor], str]] = []
    if not captured:
        routes.append(("capture", capture(loss), "forward_over_forward"))
    routes += [("eager", loss, name) for name in STRATEGIES if captured or strategy not in (name, STRATEGIES[name])]
    for way, route, name in routes:
        try:
            return f"{way} {name}", quadratic_along(route, strategy=name)(params, direction, *args, **kwargs)
        except RuntimeError:  # refused, or PyTorch cannot run it: the next
            continue
    return "no other route", None
