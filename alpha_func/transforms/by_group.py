"""What a quadratic is made of: its slope and curvature by group of parameters.

A direction d is the sum of its parts dᵢ, each zero outside of a group of leaves:

    dᵀg = Σ dᵢᵀg        dᵀHd = Σ dᵢᵀHd = Σᵢⱼ dᵢᵀHdⱼ
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.engine import engine_of
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import LOSS_SIGNATURE, accumulated, aligned, check_params, require_callable
from alpha_func.tree import Tree

Groups = Mapping[str, str | Sequence[str]] | Sequence[str]


class GroupedQuadratic(NamedTuple):
    """The local quadratic of a loss along a direction, by group of parameters.

    A NamedTuple of tensors in dicts by the names of the groups, so a pytree.

    Attributes:
        value: L(θ).
        slopes: dᵢᵀg, which sum to the slope.
        curvatures: dᵢᵀHd, the rows of the matrix below summed; they sum to the curvature.
        squared_norms: ‖dᵢ‖², which sum to ‖d‖².
        interactions: dᵢᵀHdⱼ, symmetric; empty where it was not asked for.
    """

    value: Tensor
    slopes: dict[str, Tensor]
    curvatures: dict[str, Tensor]
    squared_norms: dict[str, Tensor]
    interactions: dict[str, dict[str, Tensor]]

    @staticmethod
    def linear_in_loss() -> tuple[str, ...]:
        """The fields that of a sum of losses are sums. The norms are of the direction alone."""
        return "value", "slopes", "curvatures", "interactions"

    @property
    def quadratic(self) -> Quadratic:
        """The quadratic of the whole direction."""
        return Quadratic(self.value, _total(self.slopes), _total(self.curvatures))

    @property
    def curvature_shares(self) -> dict[str, Tensor]:
        """dᵢᵀHd / dᵀHd: the share of each group in the curvature; they sum to 1, and may be negative."""
        whole = _total(self.curvatures)
        return {name: part / whole for name, part in self.curvatures.items()}

    @property
    def slope_shares(self) -> dict[str, Tensor]:
        """dᵢᵀg / dᵀg: the share of each group in the slope; they sum to 1, and may be negative."""
        whole = _total(self.slopes)
        return {name: part / whole for name, part in self.slopes.items()}

    @property
    def directional_sharpness(self) -> Tensor:
        """dᵀHd / ‖d‖² of the whole direction: its curvature whatever its length."""
        return _total(self.curvatures) / _total(self.squared_norms)


def quadratic_by_group(
    loss: Callable[..., Tensor],
    groups: Groups | None = None,
    *,
    interactions: bool = False,
    strategy: StrategyLike | None = None,
) -> Callable[..., GroupedQuadratic]:
    """The local quadratic along a direction, split by group of parameters: the share of each in slope and curvature.

    Args:
        loss: as for ``quadratic_along``.
        groups: a name to a pattern, or several (``fnmatch``), over the names of the leaves, as in ``from_optimizer``;
            or a list of patterns, each its own name. Every leaf belongs to one group. Left out: by layer, which is the
            name of a leaf up to its last dot.
        interactions: whether to compute the matrix dᵢᵀHdⱼ too.
        strategy: as for ``hvp``.

    Returns:
        ``(params, direction, *args, **kwargs) -> GroupedQuadratic``, operands as for ``quadratic_along``. One gradient
        and one product Hd, whatever the number of groups; with interactions, one gradient and a product a group.

    Raises:
        TypeError, ValueError: an argument is not as above; at a call, groups overlap, leave a leaf out, or match none.
        StrategyError: as for ``hvp``.

    >>> import torch
    >>> found = quadratic_by_group(lambda p: (p["a.w"] * p["b.w"] ** 2).sum())(
    ...     {"a.w": torch.tensor([2.0]), "b.w": torch.tensor([3.0])}, {"a.w": torch.ones(1), "b.w": torch.ones(1)}
    ... )
    >>> found.slopes, found.curvatures
    ({'a': tensor(9.), 'b': tensor(12.)}, {'a': tensor(6.), 'b': tensor(10.)})
    """
    require_callable("loss", loss, LOSS_SIGNATURE)
    patterns = _patterns(groups)
    engine = engine_of(loss, strategy)

    def by_group(params: Tree, direction: Tree, *args: object, **kwargs: object) -> GroupedQuadratic:
        check_params(params)
        d = aligned(params, direction, "direction")
        members = _members(patterns, tree.names(params))
        leaves, structure = tree.flatten(d)

        def part(indices: list[int]) -> Tree:
            return tree.unflatten([x if i in indices else torch.zeros_like(x) for i, x in enumerate(leaves)], structure)

        def of_group(indices: list[int], other: Tree) -> Tensor:
            others = tree.leaves(other)
            return accumulated(tree.vdot([leaves[i] for i in indices], [others[i] for i in indices]))

        def by_name(other: Tree) -> dict[str, Tensor]:
            return {name: of_group(indices, other) for name, indices in members.items()}

        asked = [part(indices) for indices in members.values()] if interactions else [d]
        value, grads, products = engine.products(params, asked, args, kwargs)
        rows = [by_name(product) for product in products]
        matrix: dict[str, dict[str, Tensor]] = {}
        curvatures = rows[0]
        if interactions:
            columns = dict(zip(members, rows, strict=True))
            matrix = {i: {j: (columns[i][j] + columns[j][i]) / 2 for j in members} for i in members}
            curvatures = {i: _total(row) for i, row in matrix.items()}
        return GroupedQuadratic(accumulated(value), by_name(grads), curvatures, by_name(d), matrix)

    return by_group


def directional_sharpness(
    loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None
) -> Callable[..., Tensor]:
    """dᵀHd / ‖d‖²: the curvature of a loss along a direction, whatever its length.

    Args:
        loss, strategy: as for ``quadratic_along``.

    Returns:
        ``(params, direction, *args, **kwargs) -> dᵀHd / ‖d‖²``, 0-d; between the least and the greatest eigenvalue of
        H. NaN along a zero direction. Costs and errors are those of ``quadratic_along``.

    >>> import torch
    >>> directional_sharpness(lambda x: (x**2).sum())(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 7.0]))
    tensor(2.)
    """
    require_callable("loss", loss, LOSS_SIGNATURE)
    engine = engine_of(loss, strategy)

    def sharpness(params: Tree, direction: Tree, *args: object, **kwargs: object) -> Tensor:
        check_params(params)
        d = aligned(params, direction, "direction")
        return accumulated(engine.quadratic(params, d, args, kwargs).curvature) / accumulated(tree.vdot(d, d))

    return sharpness


def _total(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _patterns(groups: Groups | None) -> dict[str, list[str]] | None:
    if groups is None:
        return None
    if isinstance(groups, Mapping):
        found = {name: _listed(given) for name, given in groups.items()}
    elif isinstance(groups, Sequence) and not isinstance(groups, str):
        found = {pattern: [pattern] for pattern in groups} if all(isinstance(p, str) for p in groups) else {}
    else:
        found = {}
    if not found or not all(isinstance(p, str) for given in found.values() for p in given):
        raise TypeError(
            f"groups must be a dict of name to pattern or patterns, or a list of patterns, got {groups!r}; "
            "leave it out to have one group for each layer"
        )
    return found


def _members(patterns: dict[str, list[str]] | None, names: list[str]) -> dict[str, list[int]]:
    """Which leaves are in which group."""
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if patterns is None:
            owners = [name.rpartition(".")[0] or name]
        else:
            owners = [group for group, given in patterns.items() if any(fnmatchcase(name, p) for p in given)]
        if not owners:
            raise ValueError(f"groups leave out {name!r}: give a pattern that matches it, or leave groups out")
        if len(owners) > 1:
            raise ValueError(f"groups {owners[0]!r} and {owners[1]!r} both match {name!r}: a leaf belongs to one group")
        members.setdefault(owners[0], []).append(i)
    empty = [group for group in patterns or () if group not in members]
    if empty:
        raise ValueError(f"groups pattern of {empty[0]!r} matches no leaf of params: they are {', '.join(names[:12])}")
    return members if patterns is None else {group: members[group] for group in patterns}
