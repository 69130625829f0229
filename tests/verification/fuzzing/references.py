"""What a program's quadratic is, by a vote of ways that have nothing of the library in them.

    double backward     in float64, over the plain loss: value, gradient g, slope dᵀg, Hd, curvature dᵀHd
    differences         extrapolated central differences of value and gradient along d, from both sides

Where both agree, that is the reference. Where they part at a smooth point, PyTorch's own second derivative is wrong,
and differences decide. What each outcome is called is a ``Kind``.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.verification.fuzzing.program import Built, Program, widened

Numbers = tuple[float, float, float]  # value, slope, curvature
_STEP = 1.5e-3


class Kind(StrEnum):
    """How the vote ended."""

    OK = "ok"
    KINK = "kink"  # no second derivative there: nothing to be wrong about
    PYTORCH_WRONG = "pytorch_wrong"  # double backward is not the derivative
    PYTORCH_RAISES = "pytorch_raises"  # it has none: differences alone
    NOT_FINITE = "not_finite"  # it is not finite, and the derivative is: differences alone
    UNUSABLE = "unusable"  # neither


class Product(NamedTuple):
    """Double backward along one direction."""

    numbers: Numbers
    Hd: list[Tensor]


class Reference:
    """The vote on a program, and how far rounding may carry a number from it.

    Attributes:
        kind: how it ended.
        numbers: value, slope and curvature along the direction; Hd and grads as tensors, grads None where unknown.
        by_pytorch: double backward's own numbers, where they are wrong.
        directions: the program's, and two more; ``along`` has the products of each.
    """

    def __init__(self, program: Program):
        self.program = program
        with program.defaults(in_float64=True):
            self._vote(program.built(in_float64=True))
        self.is_finite = bool(self.along)  # of double backward, in the program's own dtypes
        self.noise = self._noise() if program.is_rough and self.kind is not Kind.UNUSABLE else 0.0

    def _vote(self, built: Built) -> None:
        loss, params, direction, args = built
        self._built = built
        draw = random.Random(1)
        others = [{name: _gauss(draw, d) for name, d in direction.items()} for _ in range(2)]
        self.directions = [direction, *others]
        found = attempt(lambda: double_backward(loss, params, self.directions, args))
        finite = found is not None and all(map(math.isfinite, found[0][0].numbers))
        # A detached value: differences see through it.
        detached = bool(re.search("detach|padding_idx", self.program.source))
        diff = None if detached else attempt(lambda: differences(loss, params, direction, args))
        smooth = diff is not None and diff.smooth
        self.grads = found[1] if finite and found else None
        self.along = found[0] if finite and found else []
        self.by_pytorch: Numbers | None = None
        if self.along:
            self.numbers, self.Hd = self.along[0]
            self.scale = 1e-3 + sum(map(abs, self.numbers))
            self.kind = Kind.OK
            if not detached and not (diff and smooth and self._agrees(diff)):
                self.kind = Kind.PYTORCH_WRONG if smooth else Kind.KINK
            if self.kind is Kind.PYTORCH_WRONG and diff:
                self.by_pytorch, self.numbers = self.numbers, (self.numbers[0], diff.slope, diff.curvature)
                self.Hd = diff.Hd
        elif diff is not None and smooth:
            self.kind = Kind.PYTORCH_RAISES if found is None else Kind.NOT_FINITE
            self.numbers, self.Hd = (float(loss(params, *args)), diff.slope, diff.curvature), diff.Hd
            self.scale = 1e-3 + sum(map(abs, self.numbers))
        else:
            self.kind = Kind.UNUSABLE

    def _agrees(self, diff: "Differences") -> bool:
        _, slope, curvature = self.numbers
        return abs(diff.slope - slope) < 1e-5 * self.scale and abs(diff.curvature - curvature) < 1e-4 * self.scale

    def _noise(self) -> float:
        """How far double backward in the program's own dtypes is from the reference."""
        with self.program.defaults():
            loss, params, direction, args = self.program.built()
            low = attempt(lambda: double_backward(loss, params, [direction], args)[0][0].numbers)
        if low is None or not all(map(math.isfinite, low)):
            self.is_finite = False
            return self.scale * 1e-2
        return max(abs(a - b) for a, b in zip(low, self.numbers, strict=True))

    @cached_property
    def spread(self) -> float:
        """How far double backward goes when parameters are off by 1e-13: what a singular point makes of rounding."""
        if not self.along:
            return 0.0
        found = 0.0
        with self.program.defaults(in_float64=True):
            loss, params, direction, args = self._built
            for seed in range(3):
                shaken = {name: _shaken(p, seed) for name, p in params.items()}
                again = attempt(lambda p=shaken: double_backward(loss, p, [direction], args)[0][0].numbers)
                found = max(found, *(abs(a - b) for a, b in zip(again or self.numbers, self.numbers, strict=True)))
        return found

    def exactly(self, params: Any, direction: Any, args: Sequence[Tensor]) -> Numbers | None:
        """Double backward of the program in float64 elsewhere; None where it does not run there."""
        with self.program.defaults(in_float64=True):
            loss = self._built.loss
            p, d = ({name: widened(t) for name, t in given.items()} for given in (params, direction))
            found = attempt(lambda: double_backward(loss, p, [d], [widened(a) for a in args])[0][0].numbers)
        return found if found and all(map(math.isfinite, found)) else None


class Differences(NamedTuple):
    """Slope, curvature and Hd; whether they converge, to the same from both sides."""

    slope: float
    curvature: float
    Hd: list[Tensor]
    smooth: bool


def double_backward(
    loss: Any, params: dict[str, Tensor], directions: list[dict[str, Tensor]], args: Sequence[Tensor]
) -> tuple[list[Product], list[Tensor]]:
    """The product along each direction, and the gradient."""
    value, grads, leaves = _gradient(loss, params, args, create_graph=True)
    products = []
    for direction in directions:
        slope = _dot(grads, direction.values())
        Hd = [torch.zeros_like(leaf) for leaf in leaves]
        if isinstance(slope, Tensor) and slope.requires_grad:
            Hd = list(torch.autograd.grad(slope, leaves, retain_graph=True, materialize_grads=True))
        numbers = float(value), float(slope), float(_dot(Hd, direction.values()))
        products.append(Product(numbers, [t.detach() for t in Hd]))
    return products, [g.detach() for g in grads]


def differences(loss: Any, params: dict[str, Tensor], direction: dict[str, Tensor], args: Any) -> Differences:
    """Extrapolated central differences, fourth order, of the value and of the gradient along the direction."""
    h = _STEP

    def at(steps: int) -> tuple[float, Tensor]:
        moved = {name: p + steps * h * direction[name] for name, p in params.items()}
        value, grads, _ = _gradient(loss, moved, args, create_graph=False)
        return float(value), torch.cat([g.reshape(-1) for g in grads])

    f = {steps: at(steps) for steps in (0, 1, -1, 2, -2, 4, -4)}

    def central(i: int, a: int) -> Any:
        return (8 * (f[a][i] - f[-a][i]) - (f[2 * a][i] - f[-2 * a][i])) / (12 * a * h)  # type: ignore[operator]

    def one_sided(sign: int) -> Tensor:
        return sign * (-3 * f[0][1] + 4 * f[sign][1] - f[2 * sign][1]) / (2 * h)

    slope, wider_slope, Hd, wider_Hd = central(0, 1), central(0, 2), central(1, 1), central(1, 2)
    up, down = one_sided(1), one_sided(-1)
    scale = float(Hd.abs().max()) + abs(slope) + 1e-9

    def near(x: Tensor, y: Tensor, tolerance: float) -> bool:
        return float((x - y).abs().max()) < tolerance * scale

    smooth = abs(slope - wider_slope) < 1e-6 * scale and near(Hd, wider_Hd, 1e-5)
    smooth = smooth and near(up, down, 2e-2) and near(up, Hd, 2e-2)
    flat = torch.cat([d.reshape(-1) for d in direction.values()])
    return Differences(slope, float(Hd @ flat), list(Hd.split([d.numel() for d in direction.values()])), smooth)


def attempt(function: Callable[[], Any]) -> Any:
    """What the function returns; None where it raises. Only for references: what cannot be computed says nothing."""
    try:
        return function()
    except Exception:
        return None


def _gradient(loss: Any, params: dict[str, Tensor], args: Any, *, create_graph: bool) -> Any:
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


def _gauss(draw: random.Random, like: Tensor) -> Tensor:
    return torch.tensor([draw.gauss(0, 1) for _ in range(like.numel())], dtype=torch.float64).reshape(like.shape)


def _shaken(tensor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return tensor * (1 + 1e-13 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
