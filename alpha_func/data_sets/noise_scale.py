"""How large a batch is worth its noise: the noise scale, with the true Hessian, and its simple proxy.

    G, H   gradient and Hessian of the loss of all examples        Σ   covariance of the gradients of single examples

    B_noise = tr(HΣ) / GᵀHG        B_simple = tr(Σ) / ‖G‖²        the same if H were the identity
    ε(B) = ε_max / (1 + B_noise/B)        ε_max = ‖G‖²/GᵀHG
    ΔL(B) = ΔL_max / (1 + B_noise/B)      ΔL_max = ½‖G‖⁴/GᵀHG

ε(B) is the learning rate of plain SGD whose step lowers the loss of all examples most, in the mean over batches of B,
and ΔL(B) by how much: McCandlish, Kaplan, Amodei and the OpenAI Dota Team, An Empirical Model of Large-Batch Training
(2018), equations 2.5 to 2.9. Their measurements take the proxy.

From the gradients gᵢ of n pieces, aᵢ = gᵢᵀHgᵢ, sᵢ = gᵢᵀHḡ and t = ḡᵀHḡ, without bias:

    GᵀHG ≈ (n²t − Σaᵢ) / n(n−1)        tr(HΣ) ≈ Σaᵢ/n − GᵀHG

and without piece i, for the jackknife's error bars (Efron and Stein, 1981), n²t − 2n·sᵢ + aᵢ and Σa − aᵢ in their
place.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture import CapturedLoss
from alpha_func.data_sets.additivity import coupled_layers
from alpha_func.data_sets.batches import arguments, size_of
from alpha_func.data_sets.per_example import compare_with_whole
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import check_params, require_callable
from alpha_func.transforms.verbs import hvp, quadratic_along
from alpha_func.tree import Tree


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g}"


class NoiseScale(NamedTuple):
    """The noise of gradients, and what follows from it; batch sizes are in examples.

    Attributes:
        moments: tr(HΣ), GᵀHG, tr(Σ), ‖G‖², shape (4,), float64; of single examples, without bias.
        without: the same without one piece each, shape (pieces, 4), behind the error bars.
    """

    moments: Tensor
    without: Tensor

    @property
    def value(self) -> Estimate:
        """B_noise = tr(HΣ)/GᵀHG; no batch size where GᵀHG is not positive."""
        return self._estimate(lambda m: m[..., 0] / m[..., 1])

    @property
    def simple(self) -> Estimate:
        """B_simple = tr(Σ)/‖G‖², which knows nothing of the curvature."""
        return self._estimate(lambda m: m[..., 2] / m[..., 3])

    def rate(self, batch_size: float) -> Estimate:
        """ε(B), the best learning rate of plain SGD with batches of B; ``float("inf")`` gives ε_max."""
        _positive(batch_size)
        return self._estimate(lambda m: m[..., 3] / (m[..., 1] + m[..., 0] / batch_size))

    def simple_rate(self, batch_size: float) -> Estimate:
        """ε_max / (1 + B_simple/B): ε(B) by the proxy."""
        _positive(batch_size)
        return self._estimate(lambda m: m[..., 3] / m[..., 1] / (1 + m[..., 2] / m[..., 3] / batch_size))

    def gain(self, batch_size: float) -> Estimate:
        """ΔL(B), by how much the best step lowers the loss of all examples, in the mean."""
        _positive(batch_size)
        return self._estimate(lambda m: m[..., 3] ** 2 / (m[..., 1] + m[..., 0] / batch_size) / 2)

    def _estimate(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        n, each = len(self.without), function(self.without)
        centred = each - each[0]  # first: pieces that are all there is differ by nothing, and so does their rounding
        variance = (n - 1) / n * (centred - centred.mean()).square().sum()
        return Estimate(float(function(self.moments)), float(variance.sqrt()))

    def __str__(self) -> str:
        return f"B_noise = {self.value}, B_simple = {self.simple}, ε_max = {self.rate(float('inf'))}"


def noise_scale(
    loss: Callable[..., Tensor],
    *,
    size: int = 1,
    whole: bool = False,
    chunk_size: int = 16,
    strategy: StrategyLike | None = None,
) -> Callable[..., NoiseScale]:
    """B_noise = tr(HΣ)/GᵀHG and ε(B) of a loss that is a mean over examples, with error bars.

    Args:
        loss: as for ``quadratic_along``; capture it.
        size: of the pieces whose gradients are compared, in examples. Larger pieces cost less and tell less: the noise
            of a piece is that of an example over its size.
        whole: whether the batch is the whole data set: its gradient is then G itself, without uncertainty. Otherwise it
            is a sample, and its own noise is subtracted.
        chunk_size: the number of pieces at a time. Each takes the memory of a sweep over the whole batch; every piece
            keeps a gradient.
        strategy: as for ``quadratic_along``.

    Returns:
        ``(params, batch, hessian_batch=None) -> NoiseScale``. ``batch`` is a tuple (positional arguments of the loss),
        a mapping (keyword arguments) or a tensor, of at least 3 pieces; H is that of ``hessian_batch``, or of
        the same examples. A gradient of every piece, and a quadratic of the whole batch along each.

    Raises:
        TypeError, ValueError: an argument is not as above, or a layer makes examples depend on each other.

    The error bars account for the noise of the gradients; H is taken as known. All of this is for the direction −g: for
    an optimizer's own step, see ``two_batch``.

    >>> import torch
    >>> loss = lambda x, y: ((x - y) ** 2).mean() / 2
    >>> found = noise_scale(loss)(torch.tensor(0.0), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> print(found.value, "|", found.simple)  # H is the identity; the variance is 5/3, G² is 2.5² − 5/12
    0.2857 ± 0.24 | 0.2857 ± 0.24
    >>> print(found.rate(1))
    0.7778 ± 0.15
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")
    for name, value in (("size", size), ("chunk_size", chunk_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least 1")
    plain = loss.loss if isinstance(loss, CapturedLoss) else loss
    along, product = quadratic_along(loss, strategy=strategy), hvp(loss, strategy=strategy)

    def scale(params: Tree, batch: object, hessian_batch: object = None) -> NoiseScale:
        check_params(params)
        pieces, structure, batched = _cut(loss, arguments(batch), size)

        def of_piece(*some: Tensor) -> tuple[Tree, Tensor]:
            given = iter(some)
            args, kwargs = tree.unflatten([next(given) if is_b else leaf for leaf, is_b in batched], structure)
            return grad_and_value(plain)(params, *args, **kwargs)

        grads, values = vmap(of_piece, chunk_size=chunk_size)(*pieces)
        compare_with_whole(loss, params, values, *arguments(batch))
        args, kwargs = arguments(batch if hessian_batch is None else hessian_batch)
        mean = tree.map(lambda leaf: leaf.mean(0), grads)
        curvatures = vmap(lambda g: along(params, g, *args, **kwargs).curvature, chunk_size=chunk_size)(grads)
        h_mean = product(params, mean, *args, **kwargs)
        with_mean, h_with_mean, squares = (
            vmap(tree.vdot, in_dims=dims)(grads, other)
            for other, dims in ((mean, (0, None)), (h_mean, (0, None)), (grads, (0, 0)))
        )
        moments = _of_all if whole else _moments
        curved, straight = moments(curvatures, h_with_mean, size), moments(squares, with_mean, size)
        found, without = (torch.cat(both, -1) for both in zip(curved, straight, strict=True))
        return NoiseScale(found, without)

    return scale


def _moments(a: Tensor, s: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(tr(HΣ), GᵀHG) from gᵢᵀHgᵢ and gᵢᵀHḡ, and the same without each piece."""
    a, s = a.detach().cpu().double(), s.detach().cpu().double()
    n = len(a)

    def moments(square_of_sum: Tensor, sum_of_squares: Tensor, count: int) -> Tensor:
        form = (square_of_sum - sum_of_squares) / (count * (count - 1))
        return torch.stack([size * (sum_of_squares / count - form), form], -1)

    square_of_sum = n * s.sum()  # n²·ḡᵀHḡ
    return moments(square_of_sum, a.sum(), n), moments(square_of_sum - 2 * n * s + a, a.sum() - a, n - 1)


def _of_all(a: Tensor, s: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As ``_moments``, of pieces that are all there are: ḡ is G."""
    mean_of_squares, form = a.detach().cpu().double().mean(), s.detach().cpu().double().mean()
    moments = torch.stack([size * (mean_of_squares - form), form])
    return moments, moments.expand(len(a), 2)


def _cut(
    loss: Callable[..., Tensor], batch: tuple[Args, Kwargs], size: int
) -> tuple[list[Tensor], tree.Structure, list[tuple[object, bool]]]:
    """The batched leaves as (pieces, size, ...), the structure of the arguments, and every leaf with whether it is."""
    examples = size_of(*batch)
    if examples % size or examples // size < 3:
        raise ValueError(
            f"batch has {examples} examples and size is {size}: expected at least 3 pieces of equal size, to estimate "
            "their noise"
        )
    layers = coupled_layers(loss)
    if layers:
        raise ValueError(
            f"the gradient of one example is not defined through {', '.join(layers)}: call module.eval() first"
        )
    leaves, structure = tree.flatten(batch)
    batched = [(leaf, isinstance(leaf, Tensor) and leaf.ndim > 0) for leaf in leaves]
    return [leaf.unflatten(0, (-1, size)) for leaf, is_b in batched if is_b], structure, batched


def _positive(batch_size: float) -> None:
    if not batch_size > 0:
        raise ValueError(f"batch_size is {batch_size!r}: give a positive number of examples")
