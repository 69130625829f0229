"""What the transforms refuse, in the caller's terms: which argument, what came, what was expected, what to do.

Everything is checked here, once, before any work; inner functions trust.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Function, Kwargs
from alpha_func.losses.layouts import Layouts
from alpha_func.losses.module_loss import LossOfLoss, ModuleLoss, Watched
from alpha_func.shards import alike, layout
from alpha_func.transforms.strategies import STRATEGIES, Loss, Strategy, StrategyLike
from alpha_func.tree import Tree

F = TypeVar("F", bound=Function)
LOSS_SIGNATURE = "(params, *args, **kwargs)"


def require_callable(name: str, value: F, signature: str) -> F:
    """``value``, if it can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable as {name}{signature}, got {type(value).__name__}")
    return value


def resolve_strategy(strategy: StrategyLike) -> Strategy:
    """The strategy of that name or function, or the caller's own function as one.

    >>> resolve_strategy("reverse")
    Traceback (most recent call last):
    ValueError: strategy 'reverse' is unknown: choose from forward_over_reverse, reverse_over_reverse, \
reverse_over_forward, forward_over_forward
    """
    if isinstance(strategy, Strategy):
        return strategy
    if not isinstance(strategy, str):
        require_callable("strategy", strategy, "(loss, params, direction)")
        own = Strategy(getattr(strategy, "__name__", type(strategy).__name__), strategy)
        return next((known for known in STRATEGIES.values() if known.function is strategy), own)
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is unknown: choose from {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy]


def check_params(params: Tree) -> None:
    """Refuse parameters that are not a non-empty pytree of floating-point tensors, real or complex.

    A complex parameter is the two real ones that it is made of: its gradient is ∂L/∂Re + i·∂L/∂Im, as PyTorch's, and
    inner products are real (``tree.vdot``).

    >>> import torch
    >>> check_params({"w": torch.ones(2, dtype=torch.int64)})
    Traceback (most recent call last):
    TypeError: params['w'] is torch.int64: expected floating point; convert it with .to(torch.float32)
    """
    if type(params) is dict and params and all(map(_can_move, params.values())):
        return
    leaves = tree.leaves(params)
    if not leaves:
        raise ValueError("params is an empty tree: pass at least one tensor")
    if all(_can_move(leaf) for leaf in leaves):
        return
    for path, leaf in tree.named_leaves(params):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"params{path} is a {type(leaf).__name__}: every leaf must be a tensor; "
                "let the loss close over what is not a parameter, or pass it as another argument of the loss"
            )
        if not _can_move(leaf):
            raise TypeError(
                f"params{path} is {leaf.dtype}: expected floating point; convert it with .to(torch.float32)"
            )


class Aligned:
    """``check_params`` and ``aligned`` of a verb's calls, each layout of which is looked at once."""

    def __init__(self) -> None:
        self._passed = Layouts[bool]()

    def __call__(self, params: Tree, direction: Tree) -> Tree:
        """The direction, its dicts in the order of ``params``."""
        if type(params) is not dict or type(direction) is not dict or (names := list(params)) != list(direction):
            check_params(params)
            return aligned(params, direction, "direction")
        tensors = [*params.values(), *direction.values()]
        if not self._passed.find(names, tensors):
            check_params(params)
            direction = aligned(params, direction, "direction")
            self._passed.keep(names, tensors, lambda: True)
        return direction


def aligned(params: Tree, other: Tree, name: str) -> Tree:
    """``other`` with its dicts in the order of ``params``, refused unless structure, shapes, dtypes, devices match.

    >>> import torch
    >>> aligned({"w": torch.ones(2)}, {"w": torch.ones(3)}, "direction")
    Traceback (most recent call last):
    ValueError: direction['w'] has shape (3,): expected (2,), as params['w']
    """
    if _match(params, other):
        return other
    leaves, structure = tree.flatten(params)
    others, other_structure = tree.flatten(other)
    if other_structure != structure:
        try:
            others = structure.flatten_up_to(other)
        except ValueError:
            raise ValueError(_structure_mismatch(params, other, name)) from None
        in_order = tree.unflatten(others, structure)
        if tree.structure(in_order) != structure:  # containers where params has leaves
            raise ValueError(_structure_mismatch(params, other, name))
        other = in_order
    for leaf, other_leaf in zip(leaves, others, strict=True):
        if (
            not isinstance(other_leaf, Tensor)
            or other_leaf.shape != leaf.shape
            or other_leaf.dtype != leaf.dtype
            or other_leaf.device != leaf.device
            or not alike(leaf, other_leaf)
        ):
            raise _leaf_mismatch(params, other, name)
    return other


def _can_move(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _match(params: Tree, other: Tree) -> bool:
    """Whether two flat dicts of tensors match: the usual case, at a tenth of a pytree's cost."""
    if not tree.is_flat(params) or not tree.is_flat(other) or list(params) != list(other):
        return False
    for x, y in zip(params.values(), other.values(), strict=True):
        if x.shape != y.shape or x.dtype is not y.dtype or x.device != y.device:
            return False
    return True


def scalar_loss(loss: Callable[..., Tensor], args: Args, kwargs: Kwargs) -> Loss:
    """The loss as a function of the parameters alone, which refuses a value that is not a real scalar."""
    by_itself = isinstance(loss, ModuleLoss | LossOfLoss)  # watched where it has to be

    def loss_of_params(params: Tree) -> Tensor:
        with nullcontext() if by_itself else Watched():
            value = loss(params, *args, **kwargs)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"loss must return a tensor, got {type(value).__name__}; "
                "return the loss alone, as a tensor (no .item())"
            )
        if value.ndim:
            raise ValueError(
                f"loss must return a scalar (shape ()), got shape {tuple(value.shape)}; reduce it: .mean() or .sum()"
            )
        if not value.is_floating_point():
            remedy = "take .real or .abs() of it" if value.is_complex() else "convert it with .to(torch.float32)"
            raise TypeError(f"loss must be real and floating point, got {value.dtype}; {remedy}")
        return value

    return loss_of_params


def _structure_mismatch(params: Tree, other: Tree, name: str) -> str:
    expected = {path or "a bare tensor" for path, _ in tree.named_leaves(params)}
    got = {path or "a bare leaf" for path, _ in tree.named_leaves(other)}
    difference = "; ".join(
        f"it {verb} {', '.join(sorted(paths)[:5])}"
        for verb, paths in (("lacks", expected - got), ("has unknown", got - expected))
        if paths
    )
    return f"{name} must have the structure of params: {difference or 'its containers are of other types'}"


def _leaf_mismatch(params: Tree, other: Tree, name: str) -> Exception:
    for (path, leaf), other_leaf in zip(tree.named_leaves(params), tree.leaves(other), strict=True):
        if not isinstance(other_leaf, Tensor):
            return TypeError(f"{name}{path} is a {type(other_leaf).__name__}: expected a tensor, as params{path}")
        if other_leaf.shape != leaf.shape:
            shape, expected = tuple(other_leaf.shape), tuple(leaf.shape)
            return ValueError(f"{name}{path} has shape {shape}: expected {expected}, as params{path}")
        if other_leaf.dtype != leaf.dtype:
            return TypeError(f"{name}{path} is {other_leaf.dtype}: convert it to {leaf.dtype}, as params{path}")
        if other_leaf.device != leaf.device:
            return ValueError(f"{name}{path} is on {other_leaf.device}: move it to {leaf.device}, as params{path}")
        if not alike(leaf, other_leaf):
            return TypeError(
                f"{name}{path} is {_where(other_leaf)}: expected {_where(leaf)}, as params{path}; shard it alike, "
                "direction.redistribute(placements=...), or compute it from the gradients of the parameters"
            )
    raise AssertionError("every leaf matches")


def _where(leaf: Tensor) -> str:
    place = layout(leaf)
    return "whole" if place is None else f"a DTensor ({', '.join(map(str, place.placements))})"


def accumulated(number: Tensor) -> Tensor:
    """A number in float32 or better, whatever the dtype of the loss."""
    return number.to(tree.accumulator_dtype(number.dtype))
