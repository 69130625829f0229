"""Whether the loss of a batch is made of the losses of its parts.

A loss that normalises over the batch (BatchNorm in train mode), compares examples with each other (contrastive losses)
or draws another mask for another shape (dropout) is not; nor is one weighted by something else than what its mean is
over. Layers that are known to do so are found in the module. Any loss is put to the test: a batch against its halves.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from alpha_func.capture import CapturedLoss
from alpha_func.data_sets.batches import part, size_of
from alpha_func.data_sets.weights import Weighing
from alpha_func.losses.module_loss import module_loss_of
from alpha_func.tree import Tree


def coupled_layers(loss: Callable[..., Tensor]) -> list[str]:
    """The layers of a loss's module that make one example depend on the others of its batch, as they are now.

    >>> from alpha_func import functional_loss
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> coupled_layers(functional_loss(net, nn.MSELoss())[0])
    ["BatchNorm1d '1' in train mode"]
    >>> coupled_layers(functional_loss(net.eval(), nn.MSELoss())[0])
    []
    """
    source = module_loss_of(loss)
    if source is None:
        return []
    return [
        f"{type(layer).__name__} {name.removeprefix('module.')!r} in train mode"
        for name, layer in source.model.named_modules()
        if _couples(layer)
    ]


def modes(loss: Callable[..., Tensor]) -> tuple[bool, ...]:
    """Whether each layer of a module's loss is in train mode; of another function nothing is known."""
    source = module_loss_of(loss)
    return () if source is None else tuple(layer.training for layer in source.model.modules())


def _couples(layer: nn.Module) -> bool:
    if isinstance(layer, _BatchNorm):
        return layer.training or layer.running_mean is None
    return isinstance(layer, _DropoutNd) and layer.training and layer.p > 0


class Halves:
    """The loss of a batch and of its halves put together.

    >>> found = Halves(Weighing(True, len), torch.tensor(2.0), [(1.0, torch.tensor(1.0)), (1.0, torch.tensor(3.0))])
    >>> found.agree, found.is_sum
    (True, False)
    """

    def __init__(self, weigh: Weighing, whole: Tensor, halves: list[tuple[float, Tensor]]):
        self.whole = float(whole)
        values = [float(value) for _, value in halves]
        total = sum(weight for weight, _ in halves) if weigh.mean else 1.0
        weighted = [weight * value for (weight, _), value in zip(halves, values, strict=True) if weight]
        self.together = sum(weighted) / total if total else self.whole
        eps = torch.finfo(whole.dtype).eps
        self.tolerance = eps * (1e3 if eps < 1e-4 else 8) * max(sum(map(abs, values)), abs(self.whole))
        self.agree = not abs(self.whole - self.together) > self.tolerance  # a NaN is no evidence
        self.is_sum = weigh.mean and abs(self.whole - sum(values)) <= self.tolerance
        mean = sum(weighted) / sum(weight for weight, _ in halves) if halves else 0.0
        self.is_mean = not weigh.mean and abs(self.whole - mean) <= self.tolerance


def halves(
    loss: Callable[..., Tensor],
    params: Tree,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weigh: Weighing,
    whole: Tensor | None = None,
) -> Halves | None:
    """A batch against its halves, by one evaluation of the loss (two without ``whole``, its value).

    None where the batch cannot be cut in two.
    """
    try:
        n = size_of(args, kwargs)
    except ValueError:
        return None
    if n < 2:
        return None
    plain = loss.loss if isinstance(loss, CapturedLoss) else loss  # halves would be two more programs
    middle = n // 2
    with torch.no_grad():
        found = []
        for start, stop in ((0, middle), (middle, n)):
            half, options = part(args, kwargs, start, stop)
            found.append((weigh(half, options), plain(params, *half, **options)))
        return Halves(weigh, plain(params, *args, **kwargs) if whole is None else whole, found)
