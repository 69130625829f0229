"""An nn.Module and a criterion as a pure function of the parameters.

torch.func differentiates pure functions; a module is not one. Its forward updates buffers (BatchNorm), draws from the
global RNG (dropout) and reads its own parameters. ``functional_loss`` takes all three out.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from alpha_func.calls import Args, Function, Kwargs
from alpha_func.losses import backward, dropout
from alpha_func.losses.draws import seeded_rng
from alpha_func.losses.forms import ByFunction, OwnLoss, Supervised
from alpha_func.losses.kinds import refuse_undifferentiable
from alpha_func.losses.looking import can_look, look_in_progress, looking
from alpha_func.losses.places import (
    Place,
    Ties,
    Tree,
    are_as_they_were,
    find,
    has_ties,
    parameters_of,
    place_of,
    tie,
    ties_of,
    tree_of,
)
from alpha_func.losses.restoring import restored
from alpha_func.losses.sharding import is_spread, refuse_uncaptured, refuse_unknown, reshard
from alpha_func.torch_private import forward_level, peek_interpreter_stack


def functional_loss(
    module: nn.Module,
    criterion: Callable[[object, object], Tensor] | None = None,
    *,
    loss_of: Callable[..., Tensor] | None = None,
    seed: int = 0,
) -> "tuple[ModuleLoss, dict[str, Tensor]]":
    """The loss of a module as a pure function, and the parameters to start from.

    With a criterion, ``loss(params, inputs, targets) = criterion(module(inputs), targets)``. Without one,
    ``loss(params, *args, **kwargs)`` is the module's own output: a scalar, or its ``.loss`` or ``["loss"]`` (as Hugging
    Face models give when they are called with ``labels=``). With ``loss_of``, ``loss(params, *args, **kwargs) =
    loss_of(module, *args, **kwargs)``: for any loss that has neither of these forms, whatever it calls on the module.

    The module is read at every call and never changed: a call uses its mode (train or eval), buffers, frozen parameters
    and attributes as they are at that moment. Buffers are cloned inside each call, so train-mode BatchNorm works.
    Stochastic layers draw from an RNG seeded with ``seed`` at each call: the loss is a function, and the global RNG
    (CPU and CUDA) stays where it was. On the CPU the draws are those of the module itself after
    ``torch.manual_seed(seed)``, differentiated, captured or not. One thread at a time runs a loss.

    Whatever the forward does to the module (attributes, hooks, containers, plain tensors) is undone. What PyTorch holds
    constant (``detach``, an embedding's padding row, the parameters of a draw) is constant in every derivative; hooks
    on gradients do not belong to the loss, and are not run.

    For a module under ``fully_shard`` or ``parallelize_module`` the parameters are its DTensors, and the loss must be
    captured: docs/many_processes.md.

    Args:
        module: any nn.Module.
        criterion: a function or module of (outputs, targets) that gives a 0-d loss, such as ``nn.MSELoss()``.
        loss_of: a function of the module and the batch that gives a 0-d loss: ``lambda model, x, y: model(x, y)[1]``.
        seed: of the stochastic layers; another seed is another dropout mask.

    Returns:
        loss: the pure function.
        params: dict of parameter name to tensor, in the order of ``named_parameters``: only those with
            ``requires_grad``, a tied weight once, detached, sharing memory with the module.

    Raises:
        TypeError: ``module`` is not an nn.Module or is under FSDP1, TorchScript or quantised; ``criterion``
            is not callable; at a call, the output is not a loss, or what is sharded is called uncaptured.
        ValueError: the module has no parameter with ``requires_grad``, a lazy layer, or an embedding with ``max_norm``,
            which writes to its weight, or ``scale_grad_by_freq``; at a call, ``params`` has other names.
        ImpureLossError: at a first call, a weight is read other than through its registration (a view, a list, a
            closure), an argument or a closed-over tensor is written to, or a draw is not torch's.

    >>> import torch
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> loss, params = functional_loss(module, torch.nn.MSELoss())
    >>> loss({"weight": torch.tensor([[1.0, 2.0]])}, torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0]]))
    tensor(9.)
    """
    refuse_unknown(module)
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if criterion is not None and not callable(criterion):
        raise TypeError(f"criterion must be callable as criterion(outputs, targets), got {type(criterion).__name__}")
    if loss_of is not None and (criterion is not None or not callable(loss_of)):
        got = "a criterion as well" if criterion is not None else type(loss_of).__name__
        raise TypeError(f"loss_of must be callable as loss_of(module, *batch), without a criterion, got {got}")
    if isinstance(module, nn.parallel.DistributedDataParallel):
        module = module.module  # what it adds, communication, does not belong to the loss
    reshard(module)
    refuse_undifferentiable("module", module)
    if isinstance(criterion, nn.Module):
        refuse_undifferentiable("criterion", criterion)
    params = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    if not params:
        raise ValueError("module has no parameter with requires_grad=True; unfreeze at least one")
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            what = f"module has {type(part).__name__} {name!r}"
            if part.max_norm is not None:
                raise ValueError(backward.RESCALES.format(what, part.max_norm))
            if part.scale_grad_by_freq:
                raise ValueError(backward.COUNTS.format(what))
    model: nn.Module
    if loss_of is not None:
        model = ByFunction(module, loss_of)
    else:
        model = OwnLoss(module) if criterion is None else Supervised(module, criterion)
    return ModuleLoss(model, tuple(params), seed), params


@dataclass(frozen=True, eq=False, repr=False)
class ModuleLoss:
    """The pure loss that ``functional_loss`` returns: ``loss(params, *args, **kwargs)``.

    Attributes:
        CONSTANT: those that a call reads and nothing ever changes, which need no guard.
    """

    CONSTANT: ClassVar[tuple[str, ...]] = ("names", "places", "buffers", "ties", "kept", "tied", "hooked")
    model: nn.Module
    names: tuple[str, ...]
    seed: int
    expected: frozenset[str] = field(init=False)
    tied: bool = field(init=False)
    seen: set[bool] = field(init=False, default_factory=set)  # the modes, train and eval, that it has been called in
    places: Tree = field(init=False)  # of the parameters, and of the buffers, in the model
    buffers: Tree = field(init=False)
    ties: Ties = field(init=False)  # one of those, and another place of the same tensor
    kept: tuple[Place, ...] = field(init=False)  # of the parameters that are none of them
    hooked: bool = field(init=False)  # whether there are backward hooks, which do not belong to the loss
    spread: bool = field(init=False)  # whether the module's parameters are sharded over processes

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected", frozenset(self.names))
        places = [place_of(f"module.{name}") for name in self.names]
        names = [name for name, _ in self.model.named_buffers()]
        buffers = [place_of(name) for name in names]
        object.__setattr__(self, "places", tree_of(self.names, places))
        object.__setattr__(self, "buffers", tree_of(names, buffers))
        object.__setattr__(self, "ties", ties_of(self.model, {*places, *buffers}))
        taken = {*places, *(other for _, other in self.ties)}
        object.__setattr__(self, "kept", tuple(place for place in parameters_of(self.model) if place not in taken))
        object.__setattr__(self, "tied", has_ties(self.model))
        hooked = any(m._backward_hooks or m._backward_pre_hooks for m in self.model.modules())
        object.__setattr__(self, "hooked", hooked)
        object.__setattr__(self, "spread", is_spread(self.model))

    def __reduce__(self) -> Any:
        return ModuleLoss, (self.model, self.names, self.seed)

    def over(self, names: Iterable[str]) -> "ModuleLoss":
        """The same loss as a function of the parameters of these names; any other is read from the module."""
        return ModuleLoss(self.model, tuple(names), self.seed)

    def __call__(self, params: Mapping[str, Tensor], *args: object, **kwargs: object) -> Tensor:
        """The loss at ``params``, its random draws seeded."""
        if torch.compiler.is_dynamo_compiling():
            return self._recorded(params, args, kwargs)
        self._check(params)
        with seeded_rng(self.seed), restored(self.model) as aside:
            look = look_in_progress()
            if look is not None:
                look.protect(self.trained(), aside.clones)
                look.seen_by.append(partial(self.seen.add, self.model.training))
            elif (aside.may_alias or self.model.training not in self.seen) and can_look():
                self._look(params, args, kwargs)
            return self._run({}, params, args, kwargs)

    def _recorded(self, params: Mapping[str, Tensor], args: Args, kwargs: Kwargs) -> Tensor:
        """The loss as it goes into a program: whoever runs that seeds it, and to a recording every change is virtual.

        Each place is written, and not read: a guard on it would be one on a tensor that the loss never sees.
        """
        if len(params) != len(self.names):
            raise ValueError("params has other names")
        if self.hooked:
            for module in self.model.modules():
                module._backward_hooks = OrderedDict()
                module._backward_pre_hooks = OrderedDict()
        if self.tied and not are_as_they_were(self.model, self.ties, self.kept):
            state = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            for name, value in params.items():
                state["module." + name.replace("_orig_mod.", "")] = value
            return functional_call(self.model, state, args, kwargs, tie_weights=True)
        found: list[tuple[nn.Module, str, str]] = []
        find(self.model, self.places, found)
        for part, key, name in found:
            part._parameters[key] = params[name]  # type: ignore[assignment]
        found, own = [], []
        find(self.model, self.buffers, found)
        for part, key, _ in found:
            held = part._buffers.get(key)
            if held is not None:
                own.append((part._buffers, key, held))
                part._buffers[key] = held.clone()  # the forward may write to it
        tie(self.model, self.ties)
        value = self.model(*args, **kwargs)
        for buffers, key, held in own:  # the recorded loss may call it again
            buffers[key] = held
        tie(self.model, self.ties)
        return value

    def _check(self, params: Mapping[str, Tensor]) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(
                f"params must be the dict of name to tensor that functional_loss returned, got {type(params).__name__}"
            )
        if params.keys() != self.expected:
            raise ValueError(_name_mismatch(params.keys(), self.expected))
        if self.spread:
            for name, value in params.items():
                refuse_uncaptured(f"params[{name!r}]", value)
            for name, value in self.model.named_parameters():
                refuse_uncaptured(f"module's parameter {name.removeprefix('module.')!r}", value)

    def _look(self, params: Mapping[str, Tensor], args: Args, kwargs: Kwargs) -> None:
        """Call it once to see what it reads and writes; clones of the parameters show what reads the module's own."""
        clones = {name: value.clone() for name, value in params.items()}
        with suppress(RuntimeError), looking(clones, (args, kwargs)):  # its own errors the call itself raises
            self(clones, *args, **kwargs)

    def trained(self) -> list[tuple[str, Tensor]]:
        """The module's own parameters that are arguments of the loss, by name."""
        own = dict(self.model.named_parameters(remove_duplicate=False))
        return [(name, own[f"module.{name}"]) for name in self.names if f"module.{name}" in own]

    def _run(self, state: dict[str, Tensor], params: Mapping[str, Tensor], args: Args, kwargs: Kwargs) -> Tensor:
        state.update({f"module.{name}": value for name, value in params.items()})
        # A transform's dropout would have another mask than a plain call's; at the first call, for what it refuses.
        watched = peek_interpreter_stack() is not None or self.model.training not in self.seen
        with Watched() if watched else nullcontext():
            return functional_call(self.model, state, args, kwargs, tie_weights=self.tied)


class LossOfLoss:
    """A loss that computes what another one, its ``loss``, does: captured, or cut into chunks.

    It answers the transforms by an engine of its own (``transforms.engine``).
    """

    loss: Callable[..., Tensor]

    def engine(self, strategy: Any) -> Any:
        """The engine for a strategy; None: the one that suits it best."""
        raise NotImplementedError


def module_loss_of(loss: Callable[..., Tensor]) -> ModuleLoss | None:
    """The loss of a module that a loss is, whatever it is wrapped in; None where it is another function."""
    while isinstance(loss, LossOfLoss):
        loss = loss.loss
    return loss if isinstance(loss, ModuleLoss) else None


class Watched(TorchFunctionMode):
    """A call whose dropout draws the masks of a plain call, and whose derivatives are those of its values."""

    def __torch_function__(self, func: Any, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        """The call, by what stands for it."""
        instead = _INSTEAD.get(func, func)
        if forward_level() >= 0 and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return backward.unrecorded(instead, args, kwargs or {})
        return instead(*args, **(kwargs or {}))


_INSTEAD: dict[Function, Function] = {**dropout.BY_FUNCTION, **backward.BY_FUNCTION}


def _name_mismatch(got: Any, expected: Any) -> str:
    missing, unknown = sorted(expected - got), sorted(got - expected)
    parts = [f"{label} {names}" for label, names in (("lacks", missing), ("has unknown", unknown)) if names]
    return f"params {' and '.join(parts)}: pass a dict with the names that functional_loss returned"
