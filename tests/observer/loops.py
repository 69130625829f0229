"""Training loops as people write them, small: what the observer is given, and the loss that is trained, by itself.

Each loop is a function of a ``Scene`` that takes one step of training, and tells the observer of it in its own way.
``Scene.trained`` is the loss that the step trained, written out once more, for a double backward by hand.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import nn

from alpha_func import Observer
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.observer import StepRecord


@dataclass
class Scene:
    """A loop's nets and optimizers; ``step`` takes a step, ``trained(nets, batch)`` is the loss that it trains."""

    nets: dict[str, nn.Module]
    optimizers: list[torch.optim.Optimizer]
    observe: Callable[["Scene"], Observer]
    step: Callable[["Scene", Observer | None, Any], None]
    trained: Callable[[dict[str, nn.Module], Any], torch.Tensor]
    batch: Callable[[], Any]
    net: str = "net"
    extra: dict[str, Any] = field(default_factory=dict)


def generators():
    """The states of all global generators."""
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state()


def set_generators(states):
    """Put them there."""
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    numpy.random.set_state(states[2])


def by_hand(scene: Scene, nets, before, batch) -> tuple[float, float, float]:
    """L, dᵀg and dᵀHd of the trained loss by double backward, in copies of the nets from before the step."""
    module = nets[scene.net]
    params = {name: p for name, p in module.named_parameters() if name in before}
    d = {name: p.detach() - before[name] for name, p in scene.nets[scene.net].named_parameters() if name in before}
    with twice_differentiable():
        loss = scene.trained(nets, batch)
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=True, materialize_grads=True)
    slope = sum((g.double() * d[name].double()).sum() for g, name in zip(grads, params, strict=True))
    if not slope.requires_grad:
        return loss.item(), slope.item(), 0.0
    hd = torch.autograd.grad(slope, list(params.values()), materialize_grads=True)
    curvature = sum((h.double() * d[name].double()).sum() for h, name in zip(hd, params, strict=True))
    return loss.item(), slope.item(), curvature.item()


def observed(make: Callable[[], Scene], steps: int = 3) -> list[tuple[StepRecord | None, tuple[float, float, float]]]:
    """Each step's record beside the numbers of the loss that it trained."""
    random.seed(0), numpy.random.seed(0), torch.manual_seed(0)
    scene = make()
    found = []
    with scene.observe(scene) as observer:
        for _ in range(steps):
            batch = scene.batch()
            kept, nets = copy.deepcopy((batch, scene.nets))
            states = generators()
            before = {name: p.detach().clone() for name, p in scene.nets[scene.net].named_parameters()}
            scene.step(scene, observer, batch)
            after = generators()
            set_generators(states)
            found.append((observer.last, by_hand(scene, nets, before, kept)))
            set_generators(after)
    return found


def trained_alone(make: Callable[[], Scene], observing: bool, steps: int = 3):
    """Where a loop ends, with the observer or without: parameters, buffers and generators."""
    random.seed(0), numpy.random.seed(0), torch.manual_seed(0)
    scene = make()
    observer = scene.observe(scene) if observing else None
    for _ in range(steps):
        scene.step(scene, observer, scene.batch())
    if observer is not None:
        observer.close()
    return {name: net.state_dict() for name, net in scene.nets.items()}, generators()
