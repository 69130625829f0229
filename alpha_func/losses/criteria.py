"""The criteria of torch.nn.functional as those of torch.nn, which say of themselves how they reduce and weigh."""

from functools import partial
from typing import Any

from torch import nn
from torch.nn import functional as F

_FUNCTIONS: dict[object, type[nn.Module]] = {
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.soft_margin_loss: nn.SoftMarginLoss,
    F.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
}


def as_module(criterion: object) -> Any:
    """A known function as its module, with the options that a partial fixes; any other criterion as it is.

    >>> as_module(partial(F.cross_entropy, ignore_index=0)).ignore_index
    0
    """
    function, options = criterion, {}
    if isinstance(criterion, partial) and not criterion.args:
        function, options = criterion.func, criterion.keywords
    try:
        return _FUNCTIONS[function](**options)
    except (KeyError, TypeError):  # another function; an option that only the function has
        return criterion
