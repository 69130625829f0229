"""An nn.Module and a criterion as a pure function of the parameters.

torch.func differentiates pure functions; a module is not one. Its forward updates buffers (BatchNorm), draws from the
global RNG (dropout) and reads its own parameters. ``functional_loss`` takes all three out.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

ModuleLoss = Callable[..., Tensor]


def functional_loss(
    module: nn.Module, criterion: Callable[[Any, Any], Tensor] | None = None, *, seed: int = 0
) -> tuple[ModuleLoss, dict[str, Tensor]]:
    """The loss of a module as a pure function, and the parameters to start from.

    With a criterion, ``loss(params, inputs, targets) = criterion(module(inputs), targets)``. Without one,
    ``loss(params, *args, **kwargs)`` is the module's own output: a scalar, or its ``.loss`` or ``["loss"]`` (as Hugging
    Face models give when they are called with ``labels=``).

    The module is read at every call and never changed: its mode (train or eval), its buffers, its frozen parameters and
    its attributes are what they are at the call. Buffers are cloned inside each call, so train-mode BatchNorm works.
    Stochastic layers draw from an RNG seeded with ``seed`` at each call: the loss is a function, and the global RNG
    (CPU and CUDA) stays where it was.

    Args:
        module: any nn.Module.
        criterion: a function or module of (outputs, targets) that gives a 0-d loss, such as ``nn.MSELoss()``.
        seed: of the stochastic layers; another seed is another dropout mask.

    Returns:
        loss: the pure function.
        params: dict of parameter name to tensor, in the order of ``named_parameters``: only those with
            ``requires_grad``, a tied weight once, detached, sharing memory with the module.

    Raises:
        TypeError: ``module`` is no nn.Module or ``criterion`` is not callable; at a call, the output is no loss.
        ValueError: the module has no parameter with ``requires_grad``, or an embedding with ``max_norm``, which writes
            to its weight; at a call, ``params`` has other names.

    >>> import torch
    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> loss, params = functional_loss(module, torch.nn.MSELoss())
    >>> loss({"weight": torch.tensor([[1.0, 2.0]])}, torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0]]))
    tensor(9.)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if criterion is not None and not callable(criterion):
        raise TypeError(f"criterion must be callable as criterion(outputs, targets), got {type(criterion).__name__}")
    params = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    if not params:
        raise ValueError("module has no parameter with requires_grad=True; unfreeze at least one")
    for name, part in module.named_modules():
        if getattr(part, "max_norm", None) is not None and isinstance(part, nn.Embedding | nn.EmbeddingBag):
            raise ValueError(
                f"module has {type(part).__name__} {name!r} with max_norm={part.max_norm}: it rescales its weight "
                "in place at every call, and its derivative ignores that; set max_norm=None"
            )
    model = _OwnLoss(module) if criterion is None else _Supervised(module, criterion)

    def loss(params: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if not isinstance(params, Mapping):
            raise TypeError(
                f"params must be the dict of name to tensor that functional_loss returned, got {type(params).__name__}"
            )
        if params.keys() != names:
            raise ValueError(_name_mismatch(params.keys(), names))
        state: dict[str, Tensor] = {name: buffer.clone() for name, buffer in model.named_buffers()}
        state.update({f"module.{name}": value for name, value in params.items()})
        with _seeded_rng(seed), _attributes_kept(model):
            return functional_call(model, state, args, kwargs, tie_weights=tied)

    names = params.keys()
    tied = _has_ties(model)
    return loss, params


class _Supervised(nn.Module):
    """(inputs, targets) -> criterion(module(inputs), targets); the criterion's buffers are state like the module's."""

    def __init__(self, module: nn.Module, criterion: Callable[[Any, Any], Tensor]):
        super().__init__()
        self.module = module
        self.criterion = criterion

    def forward(self, inputs: Any, targets: Any) -> Tensor:
        return self.criterion(self.module(inputs), targets)


class _OwnLoss(nn.Module):
    """The module's own scalar output, or the loss that its output holds."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output = self.module(*args, **kwargs)
        if isinstance(output, Tensor):
            return output
        found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if found is None:
            raise TypeError(
                f"the module's output, a {type(output).__name__}, holds no loss: "
                "pass the targets that make the module compute one (labels=...), or a criterion to functional_loss"
            )
        return found


def _has_ties(model: nn.Module) -> bool:
    """Whether a tensor has two names; functional_call need not look for ties at every call where there are none."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return len({id(tensor) for _, tensor in named}) < len(named)


def _name_mismatch(got: Any, expected: Any) -> str:
    missing, unknown = sorted(expected - got), sorted(got - expected)
    parts = [f"{label} {names}" for label, names in (("lacks", missing), ("has unknown", unknown)) if names]
    return f"params {' and '.join(parts)}: pass a dict with the names that functional_loss returned"


@contextmanager
def _seeded_rng(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back where they were.

    Cheaper than torch.random.fork_rng, and it leaves CUDA alone where nothing has initialised it.
    """
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators.extend(torch.cuda.default_generators)
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put back every attribute of the modules that their forward sets.

    A forward may keep a tensor (``self.last = x``; legacy ``weight_norm`` and ``spectral_norm`` their weight): that of
    a differentiated call is dead outside it, and the module could not even be copied. ``functional_call`` swaps only
    the parameters and buffers it is given, so buffers that a forward registers are taken off here as well.
    """
    dicts: list[dict[str, Any]] = [d for m in model.modules() for d in (vars(m), m._parameters, m._buffers)]
    kept = [(attributes, attributes.copy()) for attributes in dicts]
    try:
        yield
    finally:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)
