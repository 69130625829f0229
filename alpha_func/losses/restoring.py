"""A module left as it was, whatever its forward does to it.

A forward may set attributes (``self.last = x``), register buffers and hooks, append to its lists, count in a
``Counter``, write to a plain tensor in place. All of that is undone: containers are put back item by item, and plain
tensors are clones while the forward runs, as buffers are.
"""

import types
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alpha_func.losses.memory import storage
from alpha_func.torch_private import GLOBAL_BACKWARD_HOOKS

_CONTAINERS = (dict, list, set, deque, tuple)
_FIRST = tuple(vars(nn.Module()))  # what every module has, before its own attributes
_REGISTERED = ("_parameters", "_buffers", "_modules")
_EMPTY = tuple(k for k, v in vars(nn.Module()).items() if isinstance(v, _CONTAINERS) and k not in _REGISTERED)
_NOTHING_WITHIN = frozenset((bool, int, float, complex, str, bytes, type(None), nn.Parameter, torch.Size, torch.dtype))
_NOT_OWNED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)

Attributes = dict[str, Any]


class Aside(NamedTuple):
    """What stands in a module while it runs: the clones; whether a tensor was none, as it may be a parameter's."""

    clones: list[Tensor]
    may_alias: bool


@contextmanager
def restored(module: nn.Module) -> Iterator["Aside"]:
    """Put back, at the end, what ``module`` and what it holds hold: modules, containers, objects, generators.

    Buffers and plain tensors are clones until then, and backward hooks are gone, those of every module too.

    >>> layer = nn.Linear(2, 2)
    >>> layer.seen = [1]
    >>> with restored(layer):
    ...     layer.seen.append(2)
    ...     _ = layer.register_forward_hook(print)
    >>> layer.seen, len(layer._forward_hooks)
    ([1], 0)
    """
    state = _State(module)
    try:
        with no_global_backward_hooks():
            yield state.aside()
    finally:
        state.put_back()


@contextmanager
def no_global_backward_hooks() -> Iterator[None]:
    """Put aside the hooks on the gradients of every module, which do not belong to a loss."""
    before = [(hooks, hooks.copy()) for hooks in GLOBAL_BACKWARD_HOOKS if hooks]
    for hooks, _ in before:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, held in before:
            hooks.update(held)


class _State:
    """Every container that a module holds, with its items; of an object that it holds, but not of that one's objects.

    A module's own dicts are read apart: they are many, nearly all empty, and this is run at every call of a loss.

    Attributes:
        containers: each with a copy.
        tensors: where buffers and plain tensors are; no parameters, and no results with a graph.
        generators: each with its state.
    """

    def __init__(self, module: nn.Module):
        self.containers: list[tuple[Any, Any]] = []
        self.tensors: list[tuple[Any, Any, Tensor]] = []
        self.generators: list[tuple[torch.Generator, Tensor]] = []
        self._modules: list[tuple[Attributes, list[tuple[Attributes, Attributes]]]] = []
        self._seen: set[int] = set()
        self._waiting: list[tuple[object, bool]] = []
        self._module(module)
        while self._waiting:
            self._walk(*self._waiting.pop())

    def aside(self) -> Aside:
        """Clones for tensors, save in the storage of a parameter, which they would hide; no backward hooks."""
        for attributes, _ in self._modules:
            if attributes["_backward_hooks"] or attributes["_backward_pre_hooks"]:
                attributes["_backward_hooks"].clear()
                attributes["_backward_pre_hooks"].clear()
        if not self.tensors:
            return Aside([], False)
        parameters = [p for _, (_, (slots, _), *_) in self._modules for p in slots.values() if p is not None]
        own = set(map(storage, parameters))
        clones: dict[int, Tensor] = {}
        may_alias = False
        for container, key, tensor in self.tensors:
            if storage(tensor) in own:
                may_alias = True
                continue
            if id(tensor) not in clones:
                clones[id(tensor)] = tensor.clone()
            container[key] = clones[id(tensor)]
        return Aside(list(clones.values()), may_alias)

    def put_back(self) -> None:
        """Everything as it was."""
        for attributes, own in self._modules:
            for slots, before in own:
                if slots or before:
                    slots.clear()
                    slots.update(before)
            if any(map(attributes.__getitem__, _EMPTY)):
                known = {id(container) for container, _ in self.containers}
                for name in _EMPTY:
                    if id(attributes[name]) not in known:
                        attributes[name].clear()
        for container, before in self.containers:
            _put_back(container, before)
        for generator, state in self.generators:
            generator.set_state(state)

    def _module(self, module: nn.Module) -> None:
        attributes = vars(module)
        if id(attributes) in self._seen:
            return
        self._seen.add(id(attributes))
        parameters, buffers, parts = map(attributes.__getitem__, _REGISTERED)
        own = [(slots, slots.copy()) for slots in (attributes, parameters, buffers, parts)]
        self._modules.append((attributes, own))
        self.tensors += [(buffers, name, value) for name, value in buffers.items() if value is not None]
        for part in parts.values():
            if part is not None:
                self._module(part)
        if any(map(attributes.__getitem__, _EMPTY)):
            for container in filter(None, map(attributes.__getitem__, _EMPTY)):
                self._wait(container, True)
        rest: Iterable[tuple[str, object]] = islice(attributes.items(), len(_FIRST), None)
        if tuple(islice(attributes, len(_FIRST))) != _FIRST:
            rest = [(name, value) for name, value in attributes.items() if name not in _FIRST]
        self._items(attributes, rest, True)

    def _walk(self, container: Any, with_objects: bool) -> None:
        if not isinstance(container, tuple):  # nor a NamedTuple
            self.containers.append((container, container.copy()))
        items = container.items() if isinstance(container, dict) else enumerate(container)
        self._items(container, items, with_objects)

    def _items(self, container: object, items: Iterable[tuple[Any, Any]], with_objects: bool) -> None:
        for key, value in items:
            kind = type(value)
            if kind in _NOTHING_WITHIN:
                continue
            if isinstance(value, nn.Module):
                self._module(value)
            elif isinstance(value, _CONTAINERS):
                self._wait(value, with_objects)
            elif isinstance(value, Tensor):
                if isinstance(container, dict | list | deque) and value.grad_fn is None:
                    self.tensors.append((container, key, value))
            elif isinstance(value, torch.Generator):
                self.generators.append((value, value.get_state()))
            elif kind.__module__.startswith("torch.distributed."):  # the engine's own state goes on
                continue
            elif with_objects and not isinstance(value, _NOT_OWNED) and hasattr(value, "__dict__"):
                self._wait(vars(value), False)

    def _wait(self, container: object, with_objects: bool) -> None:
        if id(container) not in self._seen:
            self._seen.add(id(container))
            self._waiting.append((container, with_objects))


def _put_back(container: Any, before: Any) -> None:
    """The items of ``before``, the very objects in their order; nothing is touched where nothing changed."""
    same = len(container) == len(before) and all(map(is_, container, before))
    if isinstance(container, dict):
        if not same:
            container.clear()
        if not same or not all(map(is_, container.values(), before.values())):
            container.update(before)
    elif not same:
        container.clear()
        (container.update if isinstance(container, set) else container.extend)(before)
