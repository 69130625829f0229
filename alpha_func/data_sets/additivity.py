"""Whether the loss of a batch is made of the losses of its examples, each counting as its weight says.

A loss that normalises over the batch (BatchNorm in train mode), compares examples with each other (contrastive losses)
or draws another mask for another shape (dropout) is not; nor is one that is a mean over something else than its weight.
Layers that are known to do so are found in the module. Any loss is put to the test, by one more forward pass:

    L(A ∪ B) = (w_A·L(A) + w_B·L(B)) / (w_A + w_B)

Where the weight is known, A and B are the two parts of one batch, once for each shape of batch. Where it is guessed, B
is every batch, and A an eighth of the first one: a mean over tokens whose padding begins later is a mean over examples
within each batch, and only between two batches seen to be none.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture import CapturedLoss
from alpha_func.data_sets.batches import Arguments, joined, part, size_of
from alpha_func.data_sets.weights import Weighing
from alpha_func.errors import BatchDependenceWarning, warn
from alpha_func.losses.module_loss import module_loss_of
from alpha_func.tree import Tree

Passed = set[Any]  # modes of the layers and shapes of the batch, of losses found to be made of their examples'
_KEPT = 8  # one example in so many of the first batch is compared with every other batch


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


class Parts:
    """The loss of a batch and of its parts put together.

    >>> found = Parts(True, torch.tensor(2.0), [(1.0, torch.tensor(1.0)), (1.0, torch.tensor(3.0))])
    >>> found.agree, found.is_sum
    (True, False)
    """

    def __init__(self, mean: bool, whole: Tensor, parts: list[tuple[float, Tensor]]):
        self.whole = float(whole)
        values = [float(value) for _, value in parts]
        weighted = [weight * value for (weight, _), value in zip(parts, values, strict=True) if weight]
        size = sum(abs(value) for (weight, _), value in zip(parts, values, strict=True) if weight)
        mean_of_parts = sum(weighted) / (sum(weight for weight, _ in parts) or 1.0)
        self.together = (mean_of_parts if mean else sum(weighted)) if weighted else self.whole
        eps = torch.finfo(whole.dtype).eps
        tolerance = eps * (1e3 if eps < 1e-4 else 8) * max(size, abs(self.whole))
        # No number says nothing; but a number of which a part is none was a mean over nothing there: of weight 0.
        self.agree = not math.isfinite(self.whole) or abs(self.whole - self.together) <= tolerance
        self.is_sum = mean and abs(self.whole - sum(values)) <= tolerance
        self.is_mean = not mean and abs(self.whole - mean_of_parts) <= tolerance


class _Weighed(NamedTuple):
    """Examples, their weight and their loss."""

    batch: Arguments
    weight: float
    value: Tensor


class Additivity:
    """Looks at the batches of one sum, one by one.

    Args:
        loss: the loss of a batch.
        weigh: how batches are weighed.
        passed: what need not be looked at again where the weight is known; added to.
    """

    def __init__(self, loss: Callable[..., Tensor], weigh: Weighing, passed: Passed):
        self._weigh, self._passed, self._modes = weigh, passed, modes(loss)
        self._plain = loss.loss if isinstance(loss, CapturedLoss) else loss  # parts would be more programs
        self._first: _Weighed | None = None

    def look(self, params: Tree, args: Args, kwargs: Kwargs, value: Tensor | None) -> Parts | None:
        """A batch against its parts, or with examples of the first; None where nothing is left to be seen.

        ``value`` is the loss of the batch; without it, that is evaluated too.
        """
        kind = self._modes, _shapes((*args, *kwargs.values()))
        if self._weigh.known and kind in self._passed:
            return None
        with torch.no_grad():
            value = self._plain(params, *args, **kwargs) if value is None else value
            found = self._with_first(params, args, kwargs, value) or self._taken_apart(params, args, kwargs, value)
        if found is None or found.agree:
            self._passed.add(kind)
        return found

    def _with_first(self, params: Tree, args: Args, kwargs: Kwargs, value: Tensor) -> Parts | None:
        both = joined(self._first.batch, (args, kwargs)) if self._first is not None else None
        if self._first is None or both is None:
            return None
        parts = [(self._first.weight, self._first.value), (self._weigh(args, kwargs), value)]
        return Parts(self._weigh.mean, self._plain(params, *both[0], **both[1]), parts)

    def _taken_apart(self, params: Tree, args: Args, kwargs: Kwargs, value: Tensor) -> Parts | None:
        try:
            n = size_of(args, kwargs)
        except ValueError:
            return None
        few = n // 2 if self._weigh.known else max(n // _KEPT, 1)
        found = []
        for start, stop in ((0, few), (few, n)) if 0 < few < n else ((0, n),):
            batch = part(args, kwargs, start, stop)
            whole = start == 0 and stop == n
            some = value if whole else self._plain(params, *batch[0], **batch[1])
            found.append(_Weighed(batch, self._weigh(*batch), some))
        if not self._weigh.known and found[0].value.isfinite():  # no number is compared with a mean over nothing
            self._first = found[0]._replace(batch=tree.map(_copied, found[0].batch))
        return Parts(self._weigh.mean, value, [(some.weight, some.value) for some in found]) if len(found) > 1 else None


class AdditivityCheck:
    """Looks at the batches of one sum until one is found that is not made of its examples', and says so once."""

    def __init__(self, loss: Callable[..., Tensor], weigh: Weighing, passed: Passed):
        self._loss, self._additivity = loss, Additivity(loss, weigh, passed)
        self._count, self._done = 0, False

    def __call__(self, params: Tree, args: Args, kwargs: Kwargs, value: Tensor | None) -> None:
        """The next batch, and its loss, where it is known.

        Raises:
            ValueError: the loss is a sum where a mean was stated, or a mean where a sum was.
        """
        self._count += 1
        if self._done:
            return
        layers = coupled_layers(self._loss) if self._count == 1 else []
        if layers:
            self._warn(f"{', '.join(layers)} makes the examples of a batch depend on each other; call module.eval()")
            return
        try:
            found = self._additivity.look(params, args, kwargs, value)
        except Exception as error:
            self._warn(
                f"this could not be checked, because the loss does not run on fewer examples, or on more: {error!r}"
            )
            return
        if found is None or found.agree:
            return
        numbers = (
            f"in batch {self._count}, the loss of some examples is {found.whole:.9g}, and that of two parts of them, "
            f"combined, is {found.together:.9g}"
        )
        if found.is_sum or found.is_mean:
            is_, stated = ("sum", "mean") if found.is_sum else ("mean", "sum")
            raise ValueError(f"reduction is {stated!r}, but the loss is a {is_}: {numbers}; pass reduction={is_!r}")
        self._warn(
            f"{numbers}: the examples depend on each other or on random draws, or the mean is not over their number; "
            "pass weight=lambda *batch: ..., what the mean is over"
        )

    def _warn(self, what: str) -> None:
        self._done = True
        warn(
            f"the sum over batches may differ from the quadratic of all examples as one batch: {what}",
            BatchDependenceWarning,
        )


def _shapes(given: tuple[Any, ...]) -> tuple[object, ...]:
    if tree.PLAIN.issuperset([type(value) for value in given]):  # mostly
        return tuple([value.shape for value in given])
    return tuple(leaf.shape for leaf in tree.leaves(given) if isinstance(leaf, Tensor))


def _copied(leaf: object) -> object:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf  # a part would keep the whole batch alive
