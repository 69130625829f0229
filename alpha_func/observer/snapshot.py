"""A step of live optimizers before it is taken, and what the step is made of once it has been.

θ   the parameters before     θ⁺   after     d = θ⁺ − θ     g   the gradient that the optimizers were given, ``.grad``
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alpha_func import tree
from alpha_func.optimizers.anatomy import weight_decay_share
from alpha_func.optimizers.pure import Direction, State, from_live_optimizer
from alpha_func.shards import any_sharded
from alpha_func.torch_private import norms


class Snapshot(NamedTuple):
    """A step about to be taken: θ by name, and what its weight decay is found with."""

    params: dict[str, Tensor]
    lr: float
    direction: Direction | None
    state: State


class Given(NamedTuple):
    """A step against the gradient that the optimizers were given; NaN where it is not known.

    ``lr`` is the learning rate that the step is proportional to, ``step_norm`` ‖d‖, ``slope`` dᵀg, ``scale`` ‖d‖‖g‖.
    """

    lr: float
    step_norm: float
    slope: float
    scale: float
    cosine: float
    weight_decay_share: float


def trained(module: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, nn.Parameter]:
    """The module's parameters that the optimizers have, by name; tied ones once."""
    held = {id(param) for optimizer in optimizers for group in optimizer.param_groups for param in group["params"]}
    return {name: param for name, param in module.named_parameters() if id(param) in held}


def snapshot(params: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer]) -> Snapshot:
    """θ copied, of the parameters that a step can move; with weight decay the optimizers' state too."""
    # A step moves what has a gradient, frozen or not; a closure may yet give one to what is not frozen.
    moving = {n: p for n, p in params.items() if p.requires_grad or p.grad is not None}
    direction: Direction | None
    try:
        direction, state = from_live_optimizer(optimizers, moving)
    except (TypeError, ValueError):  # one that cannot be run on copies: LBFGS
        direction, state = None, {}
    if direction is not None and direction.decays_weights and not _decoupled(direction):
        state = tree.map(lambda value: value.clone() if isinstance(value, Tensor) else value, state)
    lr = float(optimizers[0].param_groups[0].get("lr", math.nan))
    return Snapshot({name: param.detach().clone() for name, param in moving.items()}, lr, direction, state)


def gradients(params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """``.grad`` of those that have one, dense."""
    found = {name: param.grad for name, param in params.items() if param.grad is not None}
    return {name: grad.to_dense() if grad.is_sparse else grad for name, grad in found.items()}


def given(
    optimizers: Sequence[Optimizer], before: Snapshot, grads: Mapping[str, Tensor], d: Mapping[str, Tensor]
) -> Given:
    """The step d that was taken against the gradient that it was made of."""
    direction = before.direction
    lr = math.nan if direction is None else direction.learning_rate
    undecayed = not any(group.get("weight_decay") for optimizer in optimizers for group in optimizer.param_groups)
    grads = {name: grads[name] for name in d if name in grads}
    if not grads:
        return Given(lr, _norm(d.values()).item(), math.nan, math.nan, math.nan, 0.0 if undecayed else math.nan)
    moved = {name: d[name] for name in grads}  # what has no gradient has not moved
    slope = tree.vdot(moved, grads)
    norm = _norm(d.values())
    scale = norm * _norm(grads.values())
    share = torch.full((), 0.0 if undecayed else math.nan)
    if direction is not None and not undecayed:
        params = {name: before.params[name] for name in grads}
        if _decoupled(direction):
            share = _decoupled_share(direction, slope, grads, params)
        else:
            state = {name: before.state[name] for name in grads}
            with suppress(Exception):  # an optimizer of the user's own that does not run on copies
                share = weight_decay_share(direction, moved, grads, state, params)
    cosine = -slope.double().cpu() / scale.cpu()
    numbers = torch.stack([each.double().cpu() for each in (norm, slope, scale, cosine, share)]).tolist()
    return Given(lr, *numbers)


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of them all, in float64."""
    tensors = list(tensors)
    if any_sharded(tensors):
        return tree.norm(tensors).double().cpu()
    found = norms(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)
    return torch.stack([norm.double().cpu() for norm in found]).norm()


def _decoupled(direction: Direction) -> bool:
    """Whether all weight decay is decoupled, as AdamW's."""
    decays = [group.options for group in direction.groups if group.options.get("weight_decay")]
    return bool(decays) and all(options.get("decoupled_weight_decay", False) for options in decays)


def _decoupled_share(
    direction: Direction, slope: Tensor, grads: Mapping[str, Tensor], params: Mapping[str, Tensor]
) -> Tensor:
    """(d − d₀)ᵀg / dᵀg, where d − d₀ = −lr·λ·θ, λ the weight decay (Loshchilov & Hutter, 2019).

    An inner product instead of a second step, and without the rounding of two steps that differ in their last digits.
    """
    names = list(grads)
    numbers = direction.assign(names)
    part = torch.zeros(())
    for number, group in enumerate(direction.groups):
        decay = float(group.options.get("weight_decay", 0.0)) * float(group.options["lr"])
        own = [name for name, n in zip(names, numbers, strict=True) if n == number]
        if decay and own:
            theta, g = ({name: tree_[name] for name in own} for tree_ in (params, grads))
            part = part - decay * tree.vdot(theta, g).cpu()
    return part / slope.cpu()
