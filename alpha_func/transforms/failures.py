"""Why PyTorch could not run a strategy: the operator, and a strategy that works."""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import func

from alpha_func.errors import StrategyError
from alpha_func.transforms.remedies import first_that_runs, runs
from alpha_func.transforms.strategies import STRATEGIES, Loss, Strategy
from alpha_func.tree import Tree
from alpha_func.verified.formulas import requiring_grad

T = TypeVar("T")

# What to try instead. The other two run on many layers, but are wrong on some of them (pytorch#198017).
_ALTERNATIVES = ("reverse_over_reverse", "forward_over_reverse")
_NAMED_IN_MESSAGE = re.compile(r"forward AD with (?:aten::)?(\w+)|derivative for (?:aten::)?(\w+) is not implemented")
_NAMED_BY_ANOMALY_MODE = re.compile(r"Error detected in (\w+?)Backward\d*\.")


# What torch.func does not support in a loss that runs without it, and how to write that so that it does.
_CAUSES = (
    (
        "functorch transform|used in the graph|does not require grad",
        "take derivatives inside the loss by torch.func.grad or torch.func.vjp, not by torch.autograd.grad",
    ),
    ("saved tensor hooks", "call the loss without activation checkpointing and saved_tensors_hooks"),
    (
        "setup_context",
        "write its autograd.Function with a setup_context and a backward that can be differentiated, or in torch "
        "operators; torch.utils.checkpoint is one unless it is called with use_reentrant=False",
    ),
)
_IN_OPERATORS = "write what raises it in torch operators that are functions of their arguments"


def run(
    attempt: Callable[[Strategy], T],
    strategy: Strategy,
    loss: Loss,
    params: Tree,
    *,
    captured: Callable[[], object] | None = None,
    own: Sequence[Exception] = (),
) -> T:
    """``attempt(strategy)``, a failure of PyTorch's in it raised as a StrategyError.

    An error of the loss itself comes through unchanged. So does one in ``own``, where the attempt puts the errors of
    the caller's code that it ran besides the loss. ``captured`` is the attempt on the captured loss.
    """
    try:
        return attempt(strategy)
    except (torch.OutOfMemoryError, StrategyError):
        raise
    except (RuntimeError, AssertionError) as error:  # an assertion: a Function that vmap writes, forward
        if any(error is one for one in own):
            raise
        message = _explanation(error, attempt, strategy, loss, params, captured)
        if message is None:
            raise
        raise StrategyError(message) from error


def _explanation(
    error: Exception,
    attempt: Callable[[Strategy], T],
    strategy: Strategy,
    loss: Loss,
    params: Tree,
    captured: Callable[[], object] | None,
) -> str | None:
    # A loss with a derivative inside may run at parameters that autograd records alone.
    if not strategy.is_known or not (runs(lambda: loss(params)) or runs(lambda: loss(requiring_grad(params)))):
        return None
    by_capture = [("capture(loss)", captured)] if captured is not None else []
    others: list[tuple[str, Callable[[], object]]] = [
        (f"strategy={other!r}", partial(attempt, STRATEGIES[other]))
        for other in _ALTERNATIVES
        if other != strategy.name
    ]
    line = str(error).partition(". ")[0].partition("\n")[0]
    if not runs(lambda: func.grad(loss)(params)):
        cause = next((remedy for pattern, remedy in _CAUSES if re.search(pattern, str(error))), _IN_OPERATORS)
        works = first_that_runs(by_capture)
        remedy = f"use {works}, which runs on this loss" if works else cause
        return f"strategy {strategy.name!r} cannot run here: under torch.func the loss raises {line!r}; {remedy}"
    operator = _operator_in(str(error)) or _operator_by_anomaly_mode(lambda: attempt(strategy))
    what = f"cannot differentiate {operator} twice this way" if operator else f"raises {line!r}"
    works = first_that_runs([*others, *by_capture])
    if works:
        remedy = f"use {works}, which runs on this loss"
    else:
        remedy = "no other strategy runs on this loss either, captured or not; write the operator in simpler ones"
    return f"strategy {strategy.name!r} cannot run here: PyTorch {what}; {remedy}"


def _operator_in(message: str) -> str | None:
    found = _NAMED_IN_MESSAGE.search(message)
    return next(filter(None, found.groups())) if found else None


def _operator_by_anomaly_mode(attempt: Callable[[], object]) -> str | None:
    """The operator whose backward failed: anomaly mode names its node, ``MseLossBackward0``, in a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            runs(attempt)
    for warning in caught:
        found = _NAMED_BY_ANOMALY_MODE.search(str(warning.message))
        if found:
            return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", found[1]).lower()
    return None
