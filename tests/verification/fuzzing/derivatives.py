"""Derivatives of a program that have nothing of the library in them, each in float64.

    by double backward    value, gradient, slope, Hd and curvature: PyTorch's own, over the plain loss
    by gradients          Hd and curvature: extrapolated central differences of PyTorch's gradient along d
    by values             slope and curvature: extrapolated central differences of the value along d

What a loss detaches, and a row of padding, is the same at every point of a difference: a constant to derivatives.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

Tree = dict[str, Tensor]
_STEPS = (1.5e-3, 1e-4, 6e-6)  # the next where the last is too coarse: a kink nearby, a small epsilon
_FINER = (1e-5, 1e-8, 1e-11, 1e-13, 1e-15)
_ONE_SIDED = torch.linalg.inv(torch.vander(torch.tensor([0.0, 1, 2, 4], dtype=torch.float64), increasing=True))[2] * 2


class DoubleBackward(NamedTuple):
    """By name: value, slope, curvature, and the gradient and Hd, flat."""

    numbers: dict[str, Tensor]

    @property
    def is_finite(self) -> bool:
        """Whether all of it is."""
        return all(bool(number.isfinite().all()) for number in self.numbers.values())


class Quotient(NamedTuple):
    """A derivative by differences, and how far it may be off."""

    is_: Tensor
    error: float


class Differences(NamedTuple):
    """The value and the gradient at the point; what differences of either give by name, if smooth."""

    value: float
    gradient: Tensor
    by_values: dict[str, Quotient]
    by_gradients: dict[str, Quotient]


class Line:
    """A loss along a line through a point.

    Args:
        loss, params, direction, args: the loss and where, in float64.
    """

    def __init__(self, loss: Any, params: Tree, direction: Tree, args: Sequence[Tensor]):
        self._own, self._held = loss, _Held(loss)
        self.params, self.direction, self.args = params, direction, args
        self.d = _flat(direction.values())

    def double_backward(self) -> DoubleBackward:
        """PyTorch's own derivatives."""
        value, grads, leaves = _gradient(self._own, self.params, self.args, create_graph=True)
        slope = _dot(grads, self.direction.values())
        Hd = [torch.zeros_like(leaf) for leaf in leaves]
        if isinstance(slope, Tensor) and slope.requires_grad:
            Hd = list(torch.autograd.grad(slope, leaves, materialize_grads=True))
        found = {"value": value, "slope": slope, "gradient": _flat(grads), "Hd": _flat(Hd)}
        found["curvature"] = found["Hd"] @ self.d
        return DoubleBackward({name: torch.as_tensor(t).detach().double() for name, t in found.items()})

    def by(self, strategy: str) -> Tensor:
        """What a strategy of torch.func gives: a slope or a gradient, and its derivative."""
        outer, inner = strategy.split("_over_")

        def own(p: Tree) -> Tensor:
            return self._own(p, *self.args)

        def slope(p: Tree) -> Tensor:
            return torch.func.jvp(own, (p,), (self.direction,))[1]

        first = slope if inner == "forward" else torch.func.grad(own)
        if outer == "forward":
            return _flat(tree_leaves(torch.func.jvp(first, (self.params,), (self.direction,))))
        found, pull_back = torch.func.vjp(first, self.params)
        λ = torch.ones_like(found) if inner == "forward" else self.direction
        return _flat(tree_leaves((found, pull_back(λ))))

    def shaken(self, seed: int) -> "Line":
        """The line with its parameters off by a rounding."""
        generator = torch.Generator().manual_seed(seed)

        def shake(t: Tensor) -> Tensor:
            return t * (1 + 1e-13 * torch.randn(t.shape, generator=generator, dtype=t.dtype))

        return Line(self._own, {name: shake(p) for name, p in self.params.items()}, self.direction, self.args)

    def other_direction(self, seed: int) -> Tree:
        """Some direction."""
        generator = torch.Generator().manual_seed(seed)
        return {n: torch.randn(d.shape, generator=generator, dtype=d.dtype) for n, d in self.direction.items()}

    def along(self, e: Tree, sign: int) -> "Line":
        """The line along e, or d + e or d − e."""
        direction = {name: d + sign * e[name] if sign else e[name] for name, d in self.direction.items()}
        return Line(self._own, self.params, direction, self.args)

    def at(self, α: float, along: Tree | None = None) -> tuple[float, Tensor]:
        """The value and the gradient some way along a direction."""
        d = along or self.direction
        moved = {name: p + α * d[name] for name, p in self.params.items()} if α else self.params
        value, grads, _ = _gradient(self._held, moved, self.args, create_graph=False)
        return float(value), _flat(grads)

    def differences(self) -> Differences:
        """By the first of the steps at which all is smooth; where none is, the finest."""
        origin = self.at(0)
        for h in _STEPS:
            f = {steps: self.at(steps * h) for steps in (1, -1, 2, -2, 4, -4)} | {0: origin}
            by_values, by_gradients = self._by_values(f, h), self._by_gradients(f, h)
            if by_values and by_gradients:
                break
        return Differences(*origin, by_values, by_gradients)

    def _by_values(self, f: dict[int, tuple[float, Tensor]], h: float) -> dict[str, Quotient]:
        """Slope and curvature; none where they do not converge to the same from both sides."""

        def second(a: int) -> float:
            pairs = [f[k * a][0] + f[-k * a][0] - 2 * f[0][0] for k in (1, 2)]
            return (16 * pairs[0] - pairs[1]) / (12 * a * a * h * h)

        def of_one_side(sign: int) -> float:
            return sum(float(w) * f[sign * k][0] for w, k in zip(_ONE_SIDED, (0, 1, 2, 4), strict=True)) / (h * h)

        rounding = 1e-15 * max(abs(value) for value, _ in f.values())
        slope, curvature = _first(f, 0, 1, h), second(1)
        slope_error = abs(slope - _first(f, 0, 2, h)) + rounding / h
        curvature_error = abs(curvature - second(2)) + 4 * rounding / h**2
        scale = abs(slope) + abs(curvature) + 1e-4 * abs(f[0][0]) + 1e-9
        smooth = slope_error < 1e-5 * scale and curvature_error < 1e-3 * scale
        sides = [abs(of_one_side(sign) - curvature) for sign in (1, -1)]
        smooth = smooth and max(sides) < 1e-4 * scale + 10 * curvature_error
        found = {"slope": _quotient(slope, slope_error), "curvature": _quotient(curvature, curvature_error)}
        return found if smooth else {}

    def _by_gradients(self, f: dict[int, tuple[float, Tensor]], h: float) -> dict[str, Quotient]:
        """Hd and the curvature; none where they do not converge to the same from both sides."""

        def of_one_side(a: int) -> Tensor:
            return (-3 * f[0][1] + 4 * f[a][1] - f[2 * a][1]) / (2 * a * h)

        Hd = _first(f, 1, 1, h)
        error = largest(Hd - _first(f, 1, 2, h)) + 1e-15 * largest(f[0][1]) / h
        scale = largest(Hd) + abs(_first(f, 0, 1, h)) + 1e-4 * largest(f[0][1]) + 1e-9
        smooth = error < 1e-5 * scale
        for sign in (1, -1):  # what is smooth comes nearer with the step; a jump does not
            near, wide = of_one_side(sign), of_one_side(2 * sign)
            smooth = smooth and largest(near - Hd) < largest(near - wide) + 10 * error + 1e-9 * scale
        curvature = _quotient(float(Hd @ self.d), error * float(self.d.abs().sum()))
        return {"Hd": Quotient(Hd, error), "curvature": curvature} if smooth else {}

    def is_limit(self, slope: float, curvature: float) -> bool:
        """Whether the value goes on to change by as much a step at steps far finer: a derivative is a limit."""
        f = self.at(0)[0]
        for h in _FINER:
            for α in (h, -h):
                off = abs(self.at(α)[0] - f - α * slope - α**2 * curvature / 2)
                if not off <= 1e-2 * (abs(h * slope) + abs(h**2 * curvature)) + 1e-12 * abs(f):
                    return False
        return True

    def gradient(self) -> Tensor:
        """By differences of the value, one coordinate after the other."""
        found = []
        for name, p in self.params.items():
            for i in range(p.numel()):
                unit = {n: torch.zeros(t.shape, dtype=torch.float64) for n, t in self.params.items()}
                unit[name].view(-1)[i] = 1
                f = {steps: self.at(steps * _STEPS[0], unit) for steps in (1, -1, 2, -2)}
                found.append(_first(f, 0, 1, _STEPS[0]))
        return torch.tensor(found, dtype=torch.float64)


class _Held:
    """A loss that takes for constants, at every call, what derivatives take for such: as they were at its first."""

    def __init__(self, loss: Callable[..., Tensor]):
        self._loss = loss
        self._kept: list[Tensor] | None = None

    def __call__(self, *args: Any) -> Tensor:
        own, kept, found = Tensor.detach, iter(self._kept or ()), list[Tensor]()

        def detach(tensor: Tensor) -> Tensor:
            found.append(own(tensor) if self._kept is None else next(kept))
            return found[-1].clone()

        def embedding(indices: Tensor, weight: Tensor, padding_idx: int | None = None, **options: Any) -> Tensor:
            if padding_idx is None:
                return embedded(indices, weight, **options)
            is_padding = torch.arange(len(weight)) == padding_idx
            return embedded(indices, torch.where(is_padding[:, None], detach(weight), weight), **options)

        embedded = F.embedding
        try:
            Tensor.detach, F.embedding = detach, embedding  # type: ignore[method-assign, assignment]
            return self._loss(*args)
        finally:
            Tensor.detach, F.embedding = own, embedded  # type: ignore[method-assign]
            self._kept = found


def largest(tensor: Tensor) -> float:
    """Of its entries' sizes; NaN where one is."""
    return float(tensor.abs().max())


def _first(f: dict[int, tuple[float, Tensor]], i: int, a: int, h: float) -> Any:
    """The central quotient of fourth order, at a and 2a steps."""
    return (8 * (f[a][i] - f[-a][i]) - (f[2 * a][i] - f[-2 * a][i])) / (12 * a * h)  # type: ignore[operator]


def _quotient(number: float, error: float) -> Quotient:
    return Quotient(torch.tensor(number, dtype=torch.float64), error)


def _gradient(loss: Any, params: Tree, args: Any, *, create_graph: bool) -> Any:
    leaves = {name: p.detach().contiguous().clone().requires_grad_() for name, p in params.items()}
    tensors = list(leaves.values())
    with sdpa_kernel(SDPBackend.MATH):
        value = loss(leaves, *args)
        if not value.requires_grad:
            return value, [torch.zeros_like(t) for t in tensors], tensors
        grads = torch.autograd.grad(value, tensors, create_graph=create_graph, materialize_grads=True)
    return value, list(grads), tensors


def _dot(xs: Any, ys: Any) -> Any:
    return sum((x * y).sum() for x, y in zip(xs, ys, strict=True))


def _flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().double().reshape(-1) for t in tensors])
