"""A batch that does not fit, cut into chunks that do.

    L(batch) = Σ_c w_c·L(chunk c) / Σ_c w_c, and so its gradient, Hd and quadratic

The transforms take such a loss chunk by chunk, so that only one chunk's activations are alive.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, func

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.sharded.engine import has_shards
from alpha_func.data_sets.additivity import Additivity, Passed, coupled_layers
from alpha_func.data_sets.batches import part, size_of
from alpha_func.data_sets.weights import Weighing, Weight, weighing
from alpha_func.losses.module_loss import LossOfLoss
from alpha_func.quadratic import Quadratic
from alpha_func.taylor import Taylor
from alpha_func.torch_private import peek_interpreter_stack
from alpha_func.transforms.directions import DirectionFunction
from alpha_func.transforms.engine import Engine, SpanNumbers, engine_of
from alpha_func.transforms.strategies import Products, Step, StrategyLike
from alpha_func.transforms.validation import require_callable, scalar_loss
from alpha_func.tree import Tree


class Chunk(NamedTuple):
    """A part of a batch as the arguments of the loss, and its share of the whole."""

    share: float
    args: Args
    kwargs: Kwargs


class MicrobatchedLoss(LossOfLoss):
    """What ``microbatched`` returns: a loss, and the chunks that it is made of."""

    def __init__(self, loss: Callable[..., Tensor], size: int, weigh: Weighing):
        self.loss, self.size, self.weigh = loss, size, weigh
        self._passed: Passed = set()

    def __call__(self, params: Tree, *args: object, **kwargs: object) -> Tensor:
        """The loss of the whole batch."""
        check = self.check(params)
        parts = []
        for share, some, options in self.chunks(args, kwargs):
            value = scalar_loss(self.loss, some, options)(params)
            check(some, options, value)
            parts.append(share * value)
        return torch.stack(parts).sum()

    def chunks(self, args: Args, kwargs: Kwargs) -> list[Chunk]:
        """The chunks of a batch; the shares of a mean sum to 1."""
        layers = coupled_layers(self.loss)
        if layers:
            raise ValueError(
                f"the loss cannot be cut into microbatches through {', '.join(layers)}, which makes examples "
                "depend on the others of their chunk: call module.eval() first, or take the batch whole"
            )
        n = size_of(args, kwargs)
        cuts = [part(args, kwargs, start, start + self.size) for start in range(0, n, self.size)]
        weigh = self.weigh.fresh()
        weights = [weigh(*cut) for cut in cuts]
        total = sum(weights) if self.weigh.mean else 1.0
        if not total:
            raise ValueError("the weights of all chunks are 0: there is no example to take the mean over")
        return [Chunk(w / total, *cut) for w, cut in zip(weights, cuts, strict=True) if w]

    def check(self, params: Tree) -> Callable[..., None]:
        """A function that refuses a chunk, given its arguments and value, whose loss is not made of its examples'."""
        # Within a transform there are no values to compare; of shards, no rank has any by itself.
        if peek_interpreter_stack() is not None or has_shards(params, self.loss):
            return lambda args, kwargs, value=None: None
        additivity = Additivity(self.loss, self.weigh.fresh(), self._passed)

        def check(args: Args, kwargs: Kwargs, value: Tensor | None = None) -> None:
            found = additivity.look(params, args, kwargs, value)
            if found is None or found.agree:
                return
            hint = " (it is a sum: pass reduction='sum')" if found.is_sum else ""
            raise ValueError(
                f"the loss cannot be cut into chunks: the loss of some examples is {found.whole:.9g}, and that of two "
                f"parts of them, combined, is {found.together:.9g}; the examples depend on each other or on random "
                f"draws, or the mean is not over their number{hint}: pass weight=lambda *batch: ..., what it is over"
            )

        return check

    def engine(self, strategy: StrategyLike | None) -> "Chunked":
        """The engine of the loss that is cut, a chunk at a time."""
        return Chunked(self, engine_of(self.loss, strategy))


class Chunked(Engine):
    """The engine of a loss in chunks: sums of what another engine answers for each."""

    def __init__(self, loss: MicrobatchedLoss, each: Engine):
        self._loss, self._each = loss, each

    def quadratic(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Quadratic:
        """The quadratic, summed in float64."""
        return self._sum(params, direction, self._loss.chunks(args, kwargs), self._loss.check(params))

    def product(self, params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> Tree:
        """Hd, summed in the dtype of the parameters."""
        check = self._loss.check(params)

        def products() -> Iterator[tuple[float, Tree]]:
            for share, some, options in self._loss.chunks(args, kwargs):
                check(some, options)
                yield share, self._each.product(params, direction, some, options)

        return _sum(products())

    def step(self, params: Tree, direction: DirectionFunction, args: Args, kwargs: Kwargs) -> Step:
        """Two passes: the direction is made of the whole gradient, which no chunk has."""
        chunks, check = self._loss.chunks(args, kwargs), self._loss.check(params)

        def gradients() -> Iterator[tuple[float, Tree]]:
            for share, some, options in chunks:
                grads, value = func.grad_and_value(scalar_loss(self._loss.loss, some, options))(params)
                check(some, options, value)
                yield share, grads

        grads = _sum(gradients())
        d = direction(grads)
        return Step(grads, d, self._sum(params, d, chunks))

    def taylor(self, params: Tree, direction: Tree, order: int, args: Args, kwargs: Kwargs) -> Taylor:
        """The derivatives, summed in float64."""
        found = self._summed(
            lambda some, options: self._each.taylor(params, direction, order, some, options).derivatives,
            self._loss.chunks(args, kwargs),
            self._loss.check(params),
        )
        return Taylor(found[0], found[1], found[2], tuple(found[3:]))

    def span(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> SpanNumbers:
        """Value, slopes and curvature, summed in float64."""
        found = self._summed(
            lambda some, options: self._each.span(params, directions, some, options),
            self._loss.chunks(args, kwargs),
            self._loss.check(params),
        )
        return found[0], found[1], found[2]

    def gauss_newton(self, params: Tree, direction: Tree, natural: bool, args: Args, kwargs: Kwargs) -> Quadratic:
        """The quadratic with the Gauss-Newton curvature, summed in float64."""
        found = self._summed(
            lambda some, options: self._each.gauss_newton(params, direction, natural, some, options),
            self._loss.chunks(args, kwargs),
            self._loss.check(params),
        )
        return Quadratic(*found)

    def products(self, params: Tree, directions: Sequence[Tree], args: Args, kwargs: Kwargs) -> Products:
        """Gradient and products, summed in the dtype of the parameters."""
        check, values = self._loss.check(params), []

        def chunks() -> Iterator[tuple[float, Tree]]:
            for share, some, options in self._loss.chunks(args, kwargs):
                value, grads, products = self._each.products(params, directions, some, options)
                check(some, options, value)
                values.append(share * value)
                yield share, [grads, *products]

        grads, *products = _sum(chunks())
        return Products(torch.stack(values).sum(), grads, products)

    def _sum(
        self, params: Tree, direction: Tree, chunks: list[Chunk], check: Callable[..., None] | None = None
    ) -> Quadratic:
        numbers = self._summed(
            lambda some, options: self._each.quadratic(params, direction, some, options), chunks, check
        )
        return Quadratic(*numbers)

    @staticmethod
    def _summed(
        numbers: Callable[[Args, Kwargs], Sequence[Tensor]],
        chunks: list[Chunk],
        check: Callable[..., None] | None,
    ) -> list[Tensor]:
        """Σ share·numbers, summed in float64; the first is the value of the chunk."""
        found = []
        for share, some, options in chunks:
            of_chunk = numbers(some, options)
            if check is not None:
                check(some, options, of_chunk[0])
            found.append((share, of_chunk))
        dtype = tree.accumulator_dtype(found[0][1][0].dtype)
        return [
            torch.as_tensor(sum(share * each[i].double() for share, each in found)).to(dtype)
            for i in range(len(found[0][1]))
        ]


def microbatched(
    loss: Callable[..., Tensor], size: int, *, weight: Weight | str | None = None, reduction: str | None = None
) -> MicrobatchedLoss:
    """The same loss, cut into chunks of at most ``size`` examples: for a batch whose activations do not fit in memory.

    Equal to the loss of the whole batch to rounding. The transforms run it chunk by chunk. ``quadratic_along`` and
    ``hvp`` treat each chunk as a batch. ``grad_and_quadratic`` computes the gradient of every chunk, the direction from
    their sum, and then the quadratic of every chunk.

    Args:
        loss: as for ``quadratic_along``. Capture first, and then cut: ``microbatched(capture(loss), 32)``.
        size: the most examples of a chunk; every tensor argument with a dimension is cut along its first.
        weight, reduction: as for ``accumulate``, with the same checks at the same cost: a chunk is a batch there. A
            product, which has no value to compare, costs one forward pass more.

    Returns:
        A loss of the same arguments. Differentiated by other means than the transforms (``torch.func.grad``), it is
        right, and keeps the activations of all chunks.

    Raises:
        TypeError, ValueError: an argument is not as above; at a call, the tensors of the batch have different first
            dimensions, or the loss of a chunk is not the mean or sum of its examples' (BatchNorm or dropout in train
            mode, a contrastive loss, another weight).

    >>> import torch
    >>> from alpha_func import quadratic_along
    >>> loss = lambda x, y: ((x - y) ** 2).mean()
    >>> batch = torch.tensor([1.0, 3.0, 5.0])
    >>> quadratic_along(microbatched(loss, 2))(torch.tensor(0.0), torch.tensor(1.0), batch).alpha
    tensor(3.)
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size must be a whole number of examples, got {type(size).__name__}")
    if size < 1:
        raise ValueError(f"size is {size}: give a whole number of at least 1")
    return MicrobatchedLoss(loss, size, weighing(loss, weight, reduction))


def _sum(parts: Iterator[tuple[float, Tree]]) -> Tree:
    """Σ share·tree, one at a time."""
    total: Tree = None
    for share, part_of in parts:
        total = tree.scale(share, part_of) if total is None else tree.axpy(share, part_of, total)
    return total
