"""Any torch.optim optimizer as pure functions of gradients, state and parameters.

The optimizer's own ``step`` does all the arithmetic, on copies. With θ⁺ the parameters where it ends, the direction is
d = θ⁺ − θ, so α counts steps: α = 1 is the step itself. Where the step is proportional to the learning rate
(decoupled weight decay included), θ + αd is the step with learning rate α·lr from the same state.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from alpha_func import tree
from alpha_func.optimizers.detached import without_derivative
from alpha_func.optimizers.stepping import (
    Entries,
    Group,
    Options,
    check_state,
    fresh_state,
    group_of,
    live_groups,
    matched,
    named,
    step_group,
)
from alpha_func.transforms.validation import aligned, check_params
from alpha_func.tree import Tree

State = dict[str, Entries]  # by leaf name
Outcome = tuple[list[Tensor], list[Tensor], list[Entries]]  # d, θ⁺ and what the optimizer keeps, leaf by leaf

# Their step from a given state is proportional to lr. Not so Adafactor (min(lr, 1/√t)), ASGD (the step size is in the
# state) and Rprop (lr is its first step size alone).
PROPORTIONAL = frozenset(
    getattr(torch.optim, name)
    for name in ("SGD", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop", "Muon")
    if hasattr(torch.optim, name)
)


class OptimizerStep(NamedTuple):
    """A step: its direction d = θ⁺ − θ, the parameters θ⁺ where it ends, and the optimizer's state there."""

    direction: Tree
    params: Tree
    state: State


@dataclass(frozen=True, eq=False, repr=False)
class Direction:
    """An optimizer's step as pure functions; unpacks as ``init, update = direction``.

    Nothing given is changed, hooks of the optimizer are not run, and the state is a pytree: a dict of leaf name to the
    tensors that the optimizer keeps of that leaf. Most optimizers fill it at their first step.

    Under ``vmap`` the steps are taken one after another, each as it would be alone. A derivative through a step is
    refused unless the optimizer was given ``differentiable=True``; an ``nn.Parameter`` counts as its value.
    """

    groups: tuple[Group, ...]
    assign: Callable[[Sequence[str]], Sequence[int]]

    def __iter__(self) -> Any:
        """The two functions, ``init`` and ``update``."""
        return iter((self.init, self.update))

    def init(self, params: Tree) -> State:
        """The optimizer's state before its first step.

        Args:
            params: θ, a non-empty pytree of real floating-point tensors.

        Raises:
            TypeError, ValueError: ``params`` is not as above, or not what the optimizer takes.
        """
        check_params(params)
        names, leaves = named(params)
        state: State = {}
        for group, members in self._members(names):
            state.update(fresh_state(group, [names[i] for i in members], [leaves[i] for i in members]))
        return {name: state[name] for name in names}

    def update(self, grads: Tree, state: State, params: Tree) -> tuple[Tree, State]:
        """(d, the state after it), where d = θ⁺ − θ is the step that the optimizer would take; as for ``step``."""
        direction, _, after = self.step(grads, state, params)
        return direction, after

    def step(self, grads: Tree, state: State, params: Tree) -> OptimizerStep:
        """The step that the optimizer would take.

        ``params`` and ``state`` of the result are the optimizer's own bit for bit. The direction is the difference
        θ⁺ − θ rounded once; θ + d may differ from θ⁺ in the last bit, where a leaf's size changes by a factor above 2.

        Args:
            grads: g, of the structure, shapes, dtypes and devices of ``params``.
            state: from ``init``, or from the step before.
            params: θ.

        Returns:
            ``OptimizerStep(direction, params, state)``, the trees with the structure, shapes and dtypes of ``params``.

        Raises:
            TypeError, ValueError: an argument is not as above, or the optimizer refuses it.
            NotImplementedError: the step is differentiated, and the optimizer was not given ``differentiable=True``.
        """
        check_params(params)
        grads = aligned(params, grads, "grads")
        names, leaves = named(params)
        check_state(state, names)
        members = self._members(names)

        def run(theta: list[Tensor], g: list[Tensor], entries: list[Entries]) -> Outcome:
            after, new_entries = list(theta), list(entries)
            for group, indices in members:
                step_group(group, indices, theta, g, after, new_entries)
            return [new - old for new, old in zip(after, theta, strict=True)], after, new_entries

        operands = leaves, tree.leaves(grads), [state[name] for name in names]
        d, after, entries = run(*operands) if self._differentiable else without_derivative(run, *operands)
        return OptimizerStep(tree.like(params, d), tree.like(params, after), dict(zip(names, entries, strict=True)))

    @property
    def learning_rate(self) -> float:
        """lr of the first group, so that α·lr is α as a learning rate; NaN where steps are not proportional to lr."""
        if any(type(group.template) not in PROPORTIONAL for group in self.groups):
            return math.nan
        return float(self.groups[0].options["lr"])

    @property
    def decays_weights(self) -> bool:
        """Whether any group has a weight decay."""
        return any(float(group.options.get("weight_decay", 0.0)) != 0 for group in self.groups)

    def without_weight_decay(self) -> "Direction":
        """The same optimizer with weight_decay=0 in every group."""
        groups = (group._replace(options={**group.options, "weight_decay": 0.0}) for group in self.groups)
        return replace(self, groups=tuple(groups))

    def without_momentum(self) -> "Direction":
        """The same optimizer at a learning rate of 1, the gradient of the step itself in place of its average.

        It takes the state of the optimizer, whose averages of squares are used: Adam's is −g over their root. What it
        returns as the state after its step is not a state of the optimizer.
        """
        return replace(
            self, groups=tuple(group._replace(options=_without_momentum(group.options)) for group in self.groups)
        )

    @property
    def _differentiable(self) -> bool:
        return any(group.options.get("differentiable", False) for group in self.groups)

    def _members(self, names: Sequence[str]) -> list[tuple[Group, list[int]]]:
        numbers = self.assign(names)
        members = ((group, [i for i, n in enumerate(numbers) if n == k]) for k, group in enumerate(self.groups))
        return [(group, indices) for group, indices in members if indices]


def from_optimizer(
    optimizer: type[Optimizer], *, groups: Mapping[str, Options] | None = None, **options: object
) -> Direction:
    """The step of a torch.optim optimizer as a pure function: d = θ⁺ − θ, its own code doing the arithmetic.

    Args:
        optimizer: the class, such as ``torch.optim.AdamW``; any whose ``step`` needs no closure and which keeps
            everything that it remembers in its ``state``, as all of torch.optim do.
        groups: options for some of the leaves: a pattern (``fnmatch``) over the leaf's name to a dict of options,
            the first that matches winning. A name is the keys that lead to the leaf joined by dots, ``"0.bias"``.
            ``"optimizer"`` among the options is another class for these leaves, which then takes none of the
            options above: ``{"*.bias": {"optimizer": torch.optim.AdamW, "lr": 3e-4}}`` beside ``torch.optim.Muon``,
            which takes matrices alone.
        options: the optimizer's own, such as ``lr``.

    Returns:
        ``Direction(init, update)``: ``init(params) -> state`` and ``update(grads, state, params) -> (d, state)``. Both
        are pure. α is a multiple of the optimizer's step. A step costs the optimizer's own and a copy of its operands.

    Raises:
        TypeError, ValueError: ``optimizer`` is not an optimizer class, or one that needs a closure or sparse gradients,
            or an option that the class itself refuses; a pattern that matches no leaf, at the first call.

    >>> import torch
    >>> init, update = from_optimizer(torch.optim.SGD, lr=0.1, momentum=0.9)
    >>> params, grads = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 0.0])}
    >>> d, state = update(grads, init(params), params)
    >>> d, state
    ({'w': tensor([-0.1000,  0.0000])}, {'w': {'momentum_buffer': tensor([1., 0.])}})
    """
    patterns = dict(groups or {})
    made = [group_of(optimizer, options)]
    for pattern, own in patterns.items():
        if not isinstance(own, Mapping):
            raise TypeError(f"groups[{pattern!r}] must be a dict of options, got {type(own).__name__}")
        kind = own.get("optimizer", optimizer)
        shared = {} if "optimizer" in own else options
        made.append(group_of(kind, {**shared, **{name: value for name, value in own.items() if name != "optimizer"}}))
    return Direction(tuple(made), partial(matched, tuple(patterns)))


def _without_momentum(options: Options) -> dict[str, object]:
    instead: dict[str, object] = {"lr": 1.0, "momentum": 0.0, "dampening": 0.0, "nesterov": False}
    changed = {name: value for name, value in instead.items() if name in options}
    if "betas" in options:
        changed["betas"] = (0.0, *options["betas"][1:])
    return {**options, **changed}


def from_live_optimizer(
    optimizers: Optimizer | Sequence[Optimizer], params: Mapping[str, Tensor]
) -> tuple[Direction, State]:
    """The step that live optimizers are about to take, with the options and the state that they have now.

    Args:
        optimizers: the optimizer of a training loop, or several that share its parameters out.
        params: by name, the parameters to be stepped: tensors of the optimizers' ``param_groups``, those that have a
            gradient. The rest are left out, as ``optimizer.step()`` does.

    Returns:
        The direction, and the state before the step by the names in ``params``; it shares memory with the optimizer's
        own. ``direction.update(grads, state, params)`` changes neither. Both hold until the optimizers step.

    Raises:
        TypeError, ValueError: an optimizer of a kind that ``from_optimizer`` refuses, or a parameter of none of them.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> optimizer = torch.optim.Adam([w], lr=0.1)
    >>> direction, state = from_live_optimizer(optimizer, {"w": w})
    >>> direction.update({"w": torch.tensor([1.0, 0.0])}, state, {"w": w})[0]
    {'w': tensor([-0.1000,  0.0000])}
    """
    groups: list[Group] = []
    found: dict[int, int] = {}
    states: dict[int, Mapping[Any, Any]] = {}
    for optimizer in [optimizers] if isinstance(optimizers, Optimizer) else optimizers:
        for group, members in live_groups(optimizer):
            found.update((id(param), len(groups)) for param in members)
            states.update((id(param), optimizer.state) for param in members)
            groups.append(group)
    missing = [name for name, param in params.items() if id(param) not in found]
    if missing:
        raise ValueError(
            f"params {missing[:5]} are not among the parameters of the optimizer: "
            "pass the tensors that it was made with, and every optimizer of the loop"
        )
    numbers = {name: found[id(param)] for name, param in params.items()}
    state = {name: dict(states[id(param)].get(param, {})) for name, param in params.items()}
    return Direction(tuple(groups), partial(_each, numbers)), state


def _each(numbers: Mapping[str, int], names: Sequence[str]) -> list[int]:
    return [numbers[name] for name in names]
