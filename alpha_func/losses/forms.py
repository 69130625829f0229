"""The forms of a loss, each as one module: a criterion on a module's outputs, a function of it, its own output."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from alpha_func import tree
from alpha_func.losses.likelihood import Likelihood, as_it_is, natural

Criterion = Callable[[Any, Any], Tensor]  # of outputs and targets


class Supervised(nn.Module):
    """(inputs, targets) -> criterion(module(inputs), targets); the criterion's buffers are state like the module's."""

    def __init__(self, module: nn.Module, criterion: Criterion):
        super().__init__()
        self.module = module
        self.criterion = criterion
        self._natural = natural(criterion)

    def parts(self, natural: bool) -> Likelihood:
        """What is done to the module's outputs, and the criterion of that: in natural parameters where asked."""
        return self._natural if natural and self._natural is not None else Likelihood(as_it_is, self.criterion)

    def forward(self, inputs: object, targets: object, *, shift: Tensor | None = None, natural: bool = False) -> Tensor:
        """The loss, the outputs as natural parameters and shifted by a number: ``losses.likelihood``, ``parting``."""
        link, criterion = self.parts(natural)
        outputs = link(self.module(inputs))
        if shift is not None:
            outputs = tree.map(partial(_shifted, shift), outputs)
        return criterion(outputs, targets)


def _shifted(shift: Tensor, leaf: object) -> object:
    return leaf + shift if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) else leaf


class ByFunction(nn.Module):
    """A loss that a function makes of the module and the batch."""

    def __init__(self, module: nn.Module, loss_of: Callable[..., Tensor]):
        super().__init__()
        self.module = module
        self.loss_of = loss_of

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """The loss."""
        return self.loss_of(self.module, *args, **kwargs)


class OwnLoss(nn.Module):
    """The module's own scalar output, or the loss that its output holds."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """The loss."""
        output = self.module(*args, **kwargs)
        if isinstance(output, Tensor):
            return output
        found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if found is None:
            raise TypeError(
                f"the module's output, a {type(output).__name__}, has no loss: pass the "
                "targets from which the module computes one (labels=...), or pass a criterion to functional_loss"
            )
        return found
