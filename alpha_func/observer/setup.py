"""What an observer is given, refused where its parts do not fit each other."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from alpha_func.observer.batches import Batch
from alpha_func.observer.snapshot import trained

NOT_COPIED = (
    "Observer cannot be pickled or copied, as it sits on the hooks of this very optimizer: keep its records (log=...) "
    "and its step, and make another Observer(..., start=step) in the other loop"
)


def bare_module(module: Any) -> nn.Module:
    """The module itself: of a compiled one the original, which shares its parameters."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, nn.DataParallel):
        raise TypeError("module is wrapped in DataParallel, which is not supported: pass its .module")
    module = getattr(module, "_orig_mod", module)
    if isinstance(module, nn.parallel.DistributedDataParallel):
        module = module.module
    for name, param in module.named_parameters():
        if isinstance(param, UninitializedParameter):
            raise ValueError(f"module's parameter {name!r} has no shape yet: run one forward before observing")
        if not param.is_floating_point():
            raise TypeError(f"module's parameter {name!r} is {param.dtype}: expected real floating point")
    return module


def bare_optimizers(optimizer: object) -> list[Optimizer]:
    """The optimizer, or each of several, itself."""
    given = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    if not given or len({id(each) for each in given}) < len(given):
        raise ValueError(f"optimizer must be one optimizer, or a list of different ones, got {len(given)} of them")
    return [bare_optimizer(each) for each in given]


def bare_optimizer(optimizer: object) -> Optimizer:
    """The optimizer itself, out of a wrapper such as Accelerate's."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer):
        return bare_optimizer(inner)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer with its parameters, got {optimizer!r:.80}; "
            "pass the one whose step() the loop calls"
        )
    return optimizer


def check_parameters(module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimizers with a parameter that is not one of the module's: a part of its step would go unseen.

    >>> import torch
    >>> module, other = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> check_parameters(module, [torch.optim.SGD(other.parameters(), lr=0.1)])
    Traceback (most recent call last):
    ValueError: 2 of the 2 parameters of optimizer (of shapes (1, 2), (1,)) are not parameters of module: ...
    """
    own = {id(param) for param in module.parameters()}
    held = [param for optimizer in optimizers for group in optimizer.param_groups for param in group["params"]]
    foreign = [tuple(param.shape) for param in held if id(param) not in own]
    if foreign:
        raise ValueError(
            f"{len(foreign)} of the {len(held)} parameters of optimizer (of shapes {', '.join(map(str, foreign[:3]))}"
            f"{', ...' if len(foreign) > 3 else ''}) are not parameters of module: pass the module that the optimizer "
            "trains; if it trains several (such as a criterion with parameters), pass one module that contains them all"
        )
    if not any(param.requires_grad for param in trained(module, optimizers).values()):
        raise ValueError("optimizer has no parameter of module with requires_grad=True: unfreeze at least one")


def check_criterion(criterion: object) -> None:
    """Refuse a criterion that cannot be called as ``criterion(outputs, targets)``.

    >>> check_criterion(nn.MarginRankingLoss())
    Traceback (most recent call last):
    TypeError: criterion must be callable as criterion(outputs, targets), and MarginRankingLoss.forward(input1, \
input2, target) is not (missing a required argument: 'target'): pass a function of (outputs, targets) that supplies \
the rest
    """
    if criterion is None:
        return
    if not callable(criterion) or isinstance(criterion, type):
        raise TypeError(f"criterion must be callable as criterion(outputs, targets), got {criterion!r:.80}")
    try:
        signature = inspect.signature(criterion.forward if isinstance(criterion, nn.Module) else criterion)
    except (TypeError, ValueError):  # a builtin that does not tell
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        module = isinstance(criterion, nn.Module)
        name = f"{type(criterion).__name__}.forward" if module else getattr(criterion, "__name__", "it")
        raise TypeError(
            f"criterion must be callable as criterion(outputs, targets), and {name}({', '.join(signature.parameters)}) "
            f"is not ({error}): pass a function of (outputs, targets) that supplies the rest"
        ) from None


def check_supervised(args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Refuse a batch that is not the (inputs, targets) of a criterion."""
    if len(args) != 2 or kwargs:
        raise TypeError(
            f"batch takes (inputs, targets), as criterion(module(inputs), targets), got {len(args)} arguments"
            f"{f' and keywords {sorted(kwargs)}' if kwargs else ''}; for another loss give Observer "
            "loss_of=lambda model, *batch: ..."
        )


def check_options(start: object, capture_within: object, over_ranks: object, **switches: object) -> None:
    """Refuse options that are not numbers or switches.

    >>> check_options(0, None, None, loss_after="no")
    Traceback (most recent call last):
    TypeError: loss_after must be True or False, got 'no'
    """
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise ValueError(f"start must be the number of the first step, 0 or more, got {start!r}")
    if capture_within is not None and not (isinstance(capture_within, int | float) and capture_within > 0):
        raise ValueError(f"capture_within must be a positive number of seconds, or None, got {capture_within!r}")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    if over_ranks is not None and not isinstance(over_ranks, bool):
        raise TypeError(f"over_ranks must be True, False or None, got {over_ranks!r}")


def given_batches(measure_on: object) -> Callable[[int], Batch] | None:
    """``measure_on`` as a function of the step; None where the steps are measured on their own batches."""
    if measure_on is None:
        return None
    if callable(measure_on):
        return lambda step: as_batch(measure_on(step))
    as_batch(measure_on)  # what is not one is refused at once
    return lambda step: as_batch(measure_on)


def as_batch(value: object) -> Batch:
    """A tuple of arguments, or a dict of keyword arguments, as the batch of a loss."""
    if isinstance(value, Mapping):
        return Batch((), dict(value))
    if isinstance(value, tuple | list):
        return Batch(tuple(value), {})
    raise TypeError(
        f"measure_on must be a tuple of arguments or a dict of keyword arguments, got {type(value).__name__}: "
        "(inputs, targets) with a criterion"
    )


def callables(log: Any) -> list[Callable[[Any], object]]:
    """One logger or several, as a list."""
    if not callable(log) and not isinstance(log, Iterable):
        raise TypeError(f"log must be callable as log(record), or several such, got {log!r:.80}")
    logs = [log] if callable(log) else list(log)
    for i, each in enumerate(logs):
        if not callable(each) or isinstance(each, type):
            raise TypeError(f"log[{i}] must be callable as log(record), got {each!r:.80}")
    return logs
