"""Samples of an operator as one loss, which is captured once, proven once, and moves them all.

    L(θ) = Σᵢ (w·y + u·y²)ᵢ    y = f(x)    x = θ + (θ − θ₀)²·c

the losses of ``operator_cases``, with θ, x and the outputs of all samples each in one vector: a sample adds little but
its operator to the program.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alpha_func import tree
from alpha_func.losses.draws import seeded_rng
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.verified.differences import Differences, differences
from tests.verification.operand_kinds import Kind
from tests.verification.operator_cases import Operator, counted_leaves, weights

_REACHES = (0.05, 0.004, 0.0004)
_NOWHERE = float("nan")
Call = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]  # (operands, fixed tensors) -> outputs


class Given(NamedTuple):
    """What the loss reads besides θ: θ₀, c, w and u, each one vector, and the fixed tensors of each sample."""

    start: Tensor
    curved: Tensor
    w: Tensor
    u: Tensor
    fixed: list[list[Tensor]]


class Sum(nn.Module):
    """An operator at several samples.

    Attributes:
        given: what its forward is to be given.
        where: of each sample, its entries in θ.
    """

    def __init__(self, operators: Sequence[Operator]):
        super().__init__()
        self.sizes = [p.numel() for operator in operators for p in operator.inputs]
        self._shapes = [p.shape for operator in operators for p in operator.inputs]
        self.operands = _spans(len(operator.inputs) for operator in operators)
        self.where = _spans(sum(p.numel() for p in operator.inputs) for operator in operators)
        self.calls = [call_of(operator) for operator in operators]
        self.seed = operators[0].seed
        start = _flat(s for operator in operators for s in operator.start)
        self.theta = nn.Parameter(start.clone())
        fixed = [[leaf for leaf in operator.fixed if isinstance(leaf, Tensor)] for operator in operators]
        curved = _flat(c / 2 for operator in operators for c in operator.curved)
        self.given = Given(start, curved, start, start, fixed)
        sizes = [[y.numel() for y in outputs] for outputs in self.outputs(start, self.given)]
        self.results = _spans(sum(of_sample) for of_sample in sizes)
        w = _flat(weights(n, i) for of_sample in sizes for i, n in enumerate(of_sample))
        self.given = self.given._replace(w=w, u=torch.sin(3 * w) / 2)

    def forward(self, given: Given) -> Tensor:
        """L(θ)."""
        blocks = self.blocks(self.theta, given)
        outputs: list[Tensor] = []
        for call, operands, fixed in zip(self.calls, self.operands, given.fixed, strict=True):
            outputs += call(blocks[operands], fixed)
        y = torch.cat(outputs)
        return (y * (given.w + given.u * y)).sum()

    def blocks(self, theta: Tensor, given: Given) -> Sequence[Tensor]:
        """x, operand by operand."""
        return (theta + (theta - given.start) ** 2 * given.curved).split(self.sizes)

    def outputs(self, theta: Tensor, given: Given) -> list[list[Tensor]]:
        """y of each sample; none where the operator raises."""
        found = []
        with torch.no_grad(), twice_differentiable(), seeded_rng(self.seed):
            blocks = self.blocks(theta, given)
            for call, operands, fixed in zip(self.calls, self.operands, given.fixed, strict=True):
                try:
                    found.append(call(blocks[operands], fixed))
                except Exception:
                    found.append([])
        return found

    def values(self, theta: Tensor, given: Given) -> list[float]:
        """L of each sample; NaN where the operator raises."""
        found = []
        for outputs, span in zip(self.outputs(theta, given), self.results, strict=True):
            y, w, u = _flat(outputs), given.w[span], given.u[span]
            found.append(float((y * (w + u * y)).sum()) if y.shape == w.shape and len(y) else _NOWHERE)
        return found

    def along(self, theta: Tensor, direction: Tensor, given: Given) -> list[Differences]:
        """The derivatives of each sample, by extrapolated differences."""
        known: dict[float, list[float]] = {}

        def h(alpha: float, sample: int) -> float:
            if alpha not in known:
                known[alpha] = self.values(theta + alpha * direction, given)
            return known[alpha][sample]

        return [differences(lambda alpha, i=i: h(alpha, i), 1.0, _REACHES) for i in range(len(self.calls))]

    @property
    def has_outputs(self) -> bool:
        """Whether there is anything to differentiate."""
        return len(self.given.w) > 0

    def valued(self, kind: Kind) -> Tensor:
        """θ₀ with the values of a kind."""
        operands = zip(self.given.start.split(self.sizes), self._shapes, strict=True)
        return _flat(kind.value(x.view(shape)) for x, shape in operands)  # type: ignore[misc]

    def weighed(self, given: Given, by: Sequence[float]) -> Given:
        """The same with each sample's loss times a number."""
        factor = torch.cat([torch.full((span.stop - span.start,), x) for x, span in zip(by, self.results, strict=True)])
        return given._replace(w=given.w * factor, u=given.u * factor)


class _Name(str):
    """A name that containers write as it is."""

    __repr__ = str.__str__


def call_of(operator: Operator) -> Call:
    """An operator at its sample as a function whose code is the call alone: what builds its arguments is not traced."""
    names: list[Any] = []
    others: dict[str, Any] = {}
    tensors = iter(range(len(operator.fixed)))
    fixed, moved = iter(operator.fixed), iter(range(len(operator.inputs)))
    for moves in operator.moved:
        leaf = None if moves else next(fixed)
        if moves:
            names.append(_Name(f"x[{next(moved)}]"))
        elif isinstance(leaf, Tensor):
            names.append(_Name(f"c[{next(tensors)}].clone()"))
        else:
            name = f"other_{len(others)}"
            others[name] = leaf
            names.append(_Name(name))
    first, args, kwargs = tree.unflatten(names, operator.structure)
    written = f"lambda x, c: function({first!r}, *{args!r}, **{kwargs!r})"
    made = eval(written, {"function": operator.function, **others})
    shapes = [(p.shape, shape) for p, shape in zip(operator.inputs, operator.shapes, strict=True)]
    shown, gauge, counted = operator.kind.shown, operator.gauge, operator.counted

    def call(blocks: Sequence[Tensor], fixed: Sequence[Tensor]) -> list[Tensor]:
        operands = [x.view(own).clone() for x, (own, _) in zip(blocks, shapes, strict=True)]  # in memory of its own
        if shown is not None:
            operands = [shown(x, shape) for x, (_, shape) in zip(operands, shapes, strict=True)]
        return [y.reshape(-1) for y in counted_leaves(gauge(made(operands, fixed)), counted)]

    return call


def _spans(sizes: Any) -> list[slice]:
    return [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]


def _flat(tensors: Any) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.float64), *(t.reshape(-1) for t in tensors)])
