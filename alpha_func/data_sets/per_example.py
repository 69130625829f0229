"""The quadratic of every example of a batch along one direction: where the noise of α* comes from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture import CapturedLoss, capture
from alpha_func.data_sets.additive import Verb, measure
from alpha_func.data_sets.additivity import coupled_layers
from alpha_func.data_sets.batches import arguments, part, size_of
from alpha_func.errors import BatchDependenceWarning, warn
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import check_params, require_callable
from alpha_func.tree import Tree


def per_example_quadratics(
    loss: Callable[..., Tensor],
    *,
    verb: Verb | None = None,
    strategy: StrategyLike | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The quadratic qᵢ of every example of a batch, each as a batch of one, along one direction.

    If the loss is a mean over examples, their mean is the batch's quadratic. If it is a weighted mean (class weights,
    ignored targets), it is not, and the first call warns of it: pass the weights to ``alpha_interval``.

    Args:
        loss: as for ``quadratic_along``; it is captured, if it is not yet: a forward sweep under vmap stores no
            gradient of any example.
        verb: as for ``accumulate``.
        strategy: one in STRATEGIES instead, for a loss that cannot be captured; the ones that form Hd hold a gradient
            and a product of every example at a time.
        chunk_size: the number of examples at a time; None: all.

    Returns:
        ``(params, direction, batch) -> Quadratic`` of shape (examples,), or what the verb gives with that dimension
        first, float32 or better. ``batch`` is a tuple
        (positional arguments of the loss), a mapping (keyword arguments) or a tensor. One to four gradients of the
        whole batch.

    Raises:
        TypeError, ValueError: an argument is not as above, or a layer makes examples depend on each other (BatchNorm in
            train mode) or on chance (dropout in train mode).
        CaptureError: the loss cannot be captured.

    >>> import torch
    >>> loss = lambda x, y: ((x - y) ** 2).mean()
    >>> per_example_quadratics(loss)(torch.tensor(0.0), torch.tensor(1.0), torch.tensor([1.0, 3.0])).alpha
    tensor([1., 3.])
    """
    require_callable("loss", loss, "(params, *args, **kwargs)")
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size is {chunk_size!r}: give a whole number of at least 1, or None")
    captured = loss if isinstance(loss, CapturedLoss) or strategy is not None else capture(loss)
    along = measure(captured, verb, strategy)
    compared: list[bool] = []

    def quadratics(params: Tree, direction: Tree, batch: object) -> Any:
        check_params(params)
        args, kwargs = arguments(batch)
        n = size_of(args, kwargs)
        if n == 0:
            raise ValueError("batch has no examples: expected at least one")
        layers = coupled_layers(loss)
        if layers:
            raise ValueError(
                f"the loss of one example is not defined through {', '.join(layers)}: call module.eval() first"
            )
        leaves, structure = tree.flatten((args, kwargs))
        batched = [isinstance(leaf, Tensor) and leaf.ndim > 0 for leaf in leaves]

        def of_one(*examples: Tensor) -> Any:
            given = iter(examples)
            whole = [next(given)[None] if is_b else leaf for leaf, is_b in zip(leaves, batched, strict=True)]
            some, options = tree.unflatten(whole, structure)
            return along(params, direction, *some, **options)

        examples = [leaf for leaf, is_b in zip(leaves, batched, strict=True) if is_b]
        found = vmap(of_one, chunk_size=chunk_size)(*examples)
        if not compared:
            compare_with_whole(loss, params, found.value, *part(args, kwargs, 0, chunk_size or n))
            compared.append(True)
        return found

    return quadratics


def compare_with_whole(loss: Callable[..., Tensor], params: Tree, values: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Warn where the loss of a batch is neither the mean nor the sum of its examples'."""
    values = values[: size_of(args, kwargs)].double()
    with torch.no_grad():
        whole = (loss.loss if isinstance(loss, CapturedLoss) else loss)(params, *args, **kwargs)
    eps = torch.finfo(whole.dtype).eps
    for together, scale in ((values.mean(), values.abs().mean()), (values.sum(), values.abs().sum())):
        if abs(whole - together) <= eps * (1e3 if eps < 1e-4 else 8) * scale:
            return
    warn(
        f"the loss of {len(values)} examples is {float(whole):.9g}, the mean of their own {float(values.mean()):.9g}: "
        "examples depend on each other, or are weighted (then pass alpha_interval their weights, weight=...)",
        BatchDependenceWarning,
    )
