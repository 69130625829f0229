"""A torch.optim optimizer's ``step`` run on copies: its class's arithmetic, nobody's parameters."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alpha_func import tree
from alpha_func.calls import Kwargs
from alpha_func.tree import Tree

Entries = dict[str, Any]  # what the optimizer keeps of a leaf, as in its ``state``
Options = Mapping[str, Any]  # by their names
_NOT_OPTIONS = ("params", "param_names")
_KNOWN_FLAGS = {"_need_device_dtype_check_for_fused"}  # set at the first step, and of no consequence


class Group(NamedTuple):
    """Leaves that are stepped alike.

    Attributes:
        template: an optimizer of the class; its attributes are read, its parameters are not.
        options: what stands in its ``param_groups`` beside the parameters.
        make: its constructor over given leaves.
    """

    template: Optimizer
    options: Kwargs
    make: Callable[[Sequence[Tensor]], Optimizer]


def group_of(kind: type[Optimizer], options: Options) -> Group:
    """The group of these options, refused by the class's own constructor if they are none of its."""
    _check_kind(kind)
    make: Callable[..., Optimizer] = partial(kind, **options)  # no function of ours: it can be pickled
    template = make([torch.zeros(1, 1)])  # a matrix: Muon takes nothing else
    return Group(template, _options(template.param_groups[0]), make)


def live_groups(optimizer: Optimizer) -> Iterator[tuple[Group, list[Tensor]]]:
    """The groups of a live optimizer with their parameters; the options are those of this moment."""
    kind = type(optimizer)
    _check_kind(kind)
    accepted = _parameters(kind)
    for param_group in optimizer.param_groups:
        options = _options(param_group)
        make = partial(kind, **{name: value for name, value in options.items() if name in accepted})
        yield Group(optimizer, options, make), param_group["params"]


# Of a function or a class, looked up once: it takes longer than a small step.
_parameters: Callable[[object], Mapping[str, inspect.Parameter]] = lru_cache(64)(
    lambda f: inspect.signature(f).parameters
)


def _options(param_group: Mapping[str, object]) -> Kwargs:
    return {name: value for name, value in param_group.items() if name not in _NOT_OPTIONS}


def _check_kind(kind: type[Optimizer]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise TypeError(
            f"optimizer must be a torch.optim class such as torch.optim.Adam, got {kind!r}; "
            "pass the options beside it, and a live optimizer to from_live_optimizer"
        )
    if issubclass(kind, torch.optim.SparseAdam):
        raise ValueError("SparseAdam steps by sparse gradients alone, and a direction is dense: use torch.optim.Adam")
    closure = _parameters(kind.step).get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{kind.__name__} evaluates the loss again within its step (a closure), and a direction is a function of "
            "one gradient: use an optimizer whose step needs no closure"
        )


def matched(patterns: Sequence[str], names: Sequence[str]) -> list[int]:
    """For each name the number of the first pattern that matches it, from 1; 0 for none.

    >>> matched(["*.bias"], ["0.weight", "0.bias"])
    [0, 1]
    """
    numbers = [next((k for k, pattern in enumerate(patterns, 1) if fnmatchcase(name, pattern)), 0) for name in names]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"groups pattern {pattern!r} matches no leaf of params: they are {', '.join(names[:12])}")
    return numbers


def named(params: Tree) -> tuple[list[str], list[Tensor]]:
    """The leaves and their names, which must differ; an nn.Parameter as its value."""
    names, leaves = tree.names(params), tree.leaves(params)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"params has two leaves named {twice!r}: rename one, the state is kept by name")
    return names, [leaf.detach() if isinstance(leaf, nn.Parameter) else leaf for leaf in leaves]


def check_state(state: object, names: Sequence[str]) -> None:
    """Refuse a state that is not of these leaves."""
    if not isinstance(state, Mapping) or not all(isinstance(entries, Mapping) for entries in state.values()):
        raise TypeError(f"state must be what init(params) or the last update returned, got {type(state).__name__}")
    if state.keys() != set(names):
        missing, unknown = sorted(set(names) - state.keys()), sorted(state.keys() - set(names))
        parts = [f"{verb} {listed[:5]}" for verb, listed in (("lacks", missing), ("has unknown", unknown)) if listed]
        raise ValueError(f"state {' and '.join(parts)}: pass what init(params) or the last update returned")


def fresh_state(group: Group, names: Sequence[str], leaves: Sequence[Tensor]) -> dict[str, Entries]:
    """What the constructor keeps of these leaves."""
    if issubclass(type(group.template), torch.optim.Muon):
        for name, leaf in zip(names, leaves, strict=True):
            if leaf.ndim != 2:
                raise ValueError(
                    f"params leaf {name!r} has shape {tuple(leaf.shape)}: Muon takes matrices alone; give it another "
                    f"optimizer: groups={{{name!r}: {{'optimizer': torch.optim.AdamW}}}}"
                )
    copies = [leaf.detach().clone() for leaf in leaves]
    state = group.make(copies).state
    return {name: dict(state.get(copy, {})) for name, copy in zip(names, copies, strict=True)}


def step_group(
    group: Group,
    indices: Sequence[int],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    after: list[Tensor],
    entries: list[Entries],
) -> None:
    """Step the leaves of these indices: in ``after`` and ``entries`` their new value and state replace the old."""
    worker = object.__new__(type(group.template))
    vars(worker).update(vars(group.template))
    for name in ("grad_scale", "found_inf"):  # a GradScaler's, for the live step alone
        vars(worker).pop(name, None)
    copies = [params[i].clone() for i in indices]
    for i, copy in zip(indices, copies, strict=True):
        copy.grad = grads[i].clone()  # a step may write to it
    worker.state = defaultdict(dict)
    for i, copy in zip(indices, copies, strict=True):
        if entries[i]:
            worker.state[copy] = {name: _copied(value) for name, value in entries[i].items()}
    worker.param_groups = [{"params": copies, **group.options}]
    before = dict(vars(worker))
    step = type(worker).step
    # The class's own function: the hooked one would run global hooks, and a live optimizer's own.
    getattr(step, "__wrapped__", step)(worker)
    _check_all_is_kept(worker, before, group)
    for i, copy in zip(indices, copies, strict=True):
        after[i] = copy
        entries[i] = dict(worker.state.get(copy, {}))


def _copied(value: object) -> object:
    if isinstance(value, Tensor):
        return value.clone()
    return tree.map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


def _check_all_is_kept(worker: Optimizer, before: Mapping[str, object], group: Group) -> None:
    """Refuse an optimizer that remembers something outside its ``state``: the next step would not know it."""
    changed = {name for name, value in vars(worker).items() if before.get(name, worker) is not value} - _KNOWN_FLAGS
    (options,) = worker.param_groups
    changed |= {f"param_groups' {name}" for name, value in group.options.items() if options.get(name) is not value}
    if changed:
        raise ValueError(
            f"{type(worker).__name__} writes to {', '.join(sorted(changed))} at a step: only what an optimizer keeps "
            "in its state can be carried from step to step"
        )
