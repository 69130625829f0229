"""What is added up over examples: the results of verbs, most of whose numbers are linear in the loss.

    L = Σ_b w_b·L_b / Σ_b w_b        so value, slopes, curvatures and all derivatives of L are those of L_b, alike

The type of a result says by ``linear_in_loss`` which of its fields these are; the others (Gram matrices, norms) are of
the directions alone, and the same for every batch. α*, or the best learning rate and momentum, are neither.
"""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any, get_args

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.shards import is_sharded
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import aligned, require_callable
from alpha_func.transforms.verbs import quadratic_along
from alpha_func.tree import Tree

Verb = Callable[..., Callable[..., Any]]  # loss -> (params, direction or directions, *batch) -> a result


def measure(loss: Callable[..., Tensor], verb: Verb | None, strategy: StrategyLike | None) -> Callable[..., Any]:
    """``verb(loss)``, refused by name where its results cannot be added up.

    >>> from alpha_func import optimal_alpha
    >>> measure(torch.sum, optimal_alpha, None)
    Traceback (most recent call last):
    TypeError: verb optimal_alpha gives a Tensor, which is not linear in the loss and cannot be averaged: use \
quadratic_along, taylor_along, quadratic_in_span or quadratic_by_group, and compute the rest from their sum: .alpha, \
.minimizer(), .directional_sharpness
    """
    verb = quadratic_along if verb is None else require_callable("verb", verb, "(loss)")
    function = verb.func if isinstance(verb, partial) else verb
    given = get_args(getattr(function, "__annotations__", {}).get("return"))
    if given and given[-1] is not Any and isinstance(given[-1], type):
        _require_linear(verb, given[-1])
    if strategy is not None and "strategy" not in signature(verb).parameters:
        raise ValueError(f"verb {name_of(verb)} takes no strategy: leave strategy= out")
    along = verb(loss) if strategy is None else verb(loss, strategy=strategy)

    def measured(params: Tree, direction: Tree, *args: object, **kwargs: object) -> object:
        found = along(params, direction, *args, **kwargs)
        _require_linear(verb, type(found))
        return found

    return measured


def name_of(verb: Verb | None) -> str:
    """The verb with what is fixed of it, as text that is the same in every process.

    >>> name_of(partial(quadratic_along, curvature="fisher"))
    "quadratic_along(curvature='fisher')"
    """
    if isinstance(verb, partial):
        fixed = [*map(_as_text, verb.args), *(f"{name}={_as_text(value)}" for name, value in verb.keywords.items())]
        return f"{name_of(verb.func)}({', '.join(fixed)})"
    return getattr(verb or quadratic_along, "__name__", type(verb).__name__)


def operands(params: Tree, given: Tree) -> Tree:
    """A direction, or several, each in the order of ``params``."""
    try:
        return aligned(params, given, "direction")
    except (TypeError, ValueError):
        if not isinstance(given, (list, tuple)) or any(isinstance(d, Tensor) for d in given) or not given:
            raise
    return [aligned(params, d, f"directions[{i}]") for i, d in enumerate(given)]


def numbers(result: Any) -> list[Tensor]:
    """What of a result is linear in the loss."""
    return [leaf for name in type(result).linear_in_loss() for leaf in tree.leaves(getattr(result, name))]


def rows(results: Sequence[Any]) -> Tensor:
    """The numbers of many results of one kind, a row each, float64.

    >>> from alpha_func import Quadratic
    >>> rows([Quadratic(*torch.tensor([1.0, 2.0, 3.0])), Quadratic(*torch.tensor([4.0, 5.0, 6.0]))])
    tensor([[1., 2., 3.],
            [4., 5., 6.]], dtype=torch.float64)
    """
    row = torch.cat([leaf.reshape(-1) for result in results for leaf in numbers(result)])
    return row.to(_with_float64(row.device)).double().view(len(results), -1)


def with_numbers(result: Any, row: Tensor) -> Any:
    """The result of which these are the numbers, all in their dtype and on their device.

    >>> from alpha_func import Quadratic
    >>> with_numbers(Quadratic(*torch.zeros(3)), torch.tensor([1.0, 2.0, 3.0]))
    Quadratic(value=tensor(1.), slope=tensor(2.), curvature=tensor(3.))
    """
    linear = {name: getattr(result, name) for name in type(result).linear_in_loss()}
    leaves, structure = tree.flatten(linear)
    parts = torch.split(row, [leaf.numel() for leaf in leaves])
    found = tree.unflatten([part.view(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)], structure)
    others = {name: getattr(result, name) for name in result._fields if name not in linear}
    return result._replace(**found, **tree.map(lambda leaf: leaf.to(row.device).to(row.dtype), others))


def require_own(result: Any) -> None:
    """Refuse what is no result that can be added up, or is not this rank's alone."""
    if not hasattr(type(result), "linear_in_loss"):
        raise TypeError(
            f"result must be a Quadratic, or what another verb gives that is linear in the loss, got "
            f"{type(result).__name__}; one without data passes weight=0"
        )
    for name in type(result).linear_in_loss():
        if any(map(is_sharded, tree.leaves(getattr(result, name)))):  # reduced over its own mesh, then over the group
            raise TypeError(f"result.{name} is a DTensor: expected this rank's own number, number.to_local()")


def _require_linear(verb: Verb, kind: type) -> None:
    if not hasattr(kind, "linear_in_loss"):
        raise TypeError(
            f"verb {name_of(verb)} gives a {kind.__name__}, which is not linear in the loss and cannot be averaged: "
            "use quadratic_along, taylor_along, quadratic_in_span or quadratic_by_group, and compute the rest from "
            "their sum: .alpha, .minimizer(), .directional_sharpness"
        )


def _as_text(value: object) -> str:
    return name_of(value) if callable(value) else repr(value)


def _with_float64(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device  # Apple's has no float64
