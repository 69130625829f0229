"""What the forward of a module reads besides the parameters it is given.

Tensors: buffers, frozen parameters, plain tensor attributes. And what is no tensor but steers the computation: the mode
(train or eval) and every simple attribute (a dropout's ``p``, a norm's ``eps``), which submodules there are.
"""

import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_SIMPLE_BY_IDENTITY = (types.FunctionType, types.BuiltinFunctionType, type, nn.Module)
_BOOKKEEPING = frozenset(nn.Module().__dict__) - {"training"}
_KEPT_TOKENS = 64
_Slot = tuple[dict[str, Any], str]


class ModuleState:
    """The state of a module, found once and then read at a few dozen nanoseconds an entry.

    Args:
        module: the module; it is read at every call of ``read``, and never changed.
        params: the names of the parameters that are not state, as ``named_parameters`` gives them.
    """

    def __init__(self, module: nn.Module, params: frozenset[str]):
        self._module, self._params = module, params
        self._tokens: dict[tuple[Any, ...], int] = {}
        self._issued = 0
        self._scan()

    def read(self) -> tuple[int, list[Tensor]]:
        """A number that is the same as long as mode, attributes and structure are, and the state's tensors."""
        seen = self._fingerprint()
        tensors = [slots[key] for slots, key in self._tensors if key in slots]
        if seen != self._seen or len(tensors) != len(self.names) or not all(isinstance(t, Tensor) for t in tensors):
            self._scan()
            tensors = [slots[key] for slots, key in self._tensors]
        return self._token, tensors

    def tensors(self) -> dict[str, Tensor]:
        """Buffers, frozen parameters and plain tensor attributes by name, as they are now."""
        _, tensors = self.read()
        return dict(zip(self.names, tensors, strict=True))

    @contextmanager
    def attributes_replaced(self, values: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Plain tensor attributes set to ``values`` for a while; gives the rest, what ``functional_call`` replaces."""
        plain = {name: self._plain[name] for name in values if name in self._plain}
        before = [slots[key] for slots, key in plain.values()]
        try:
            for name, (slots, key) in plain.items():
                slots[key] = values[name]
            yield {name: value for name, value in values.items() if name not in plain}
        finally:
            for (slots, key), value in zip(plain.values(), before, strict=True):
                slots[key] = value

    @contextmanager
    def attributes_kept(self) -> Iterator[None]:
        """Put back every attribute of the modules that their forward sets.

        A forward may keep a tensor (``self.last = x``; legacy ``weight_norm`` and ``spectral_norm`` their weight): that
        of a differentiated call is dead outside it, and the module could not even be copied. ``functional_call`` swaps
        only the parameters and buffers it is given, so buffers that a forward registers are taken off here as well.
        """
        parts: Iterator[tuple[Any, ...]] = ((vars(m), m._parameters, m._buffers) for m in self._module.modules())
        kept = [(attributes, attributes.copy()) for dicts in parts for attributes in dicts]
        try:
            yield
        finally:
            for attributes, before in kept:
                attributes.clear()
                attributes.update(before)

    def _fingerprint(self) -> tuple[Any, ...]:
        return (
            *[slots.get(key) for slots, key in self._simple],
            *[id(slots.get(key)) for slots, key in self._identities],
            *[len(slots) for slots in self._dicts],
        )

    def _scan(self) -> None:
        tensors: dict[str, _Slot] = {}
        self._plain: dict[str, _Slot] = {}
        self._simple: list[_Slot] = []
        self._identities: list[_Slot] = []
        self._dicts: list[dict[str, Any]] = []
        known = {id(p) for name, p in self._module.named_parameters() if name in self._params}
        for path, module in self._module.named_modules():
            prefix, own = f"{path}." if path else "", module.__dict__
            self._dicts += [own, own["_parameters"], own["_buffers"], own["_modules"]]
            self._dicts += [own["_forward_hooks"], own["_forward_pre_hooks"]]
            self._simple += [(own["_modules"], name) for name in own["_modules"]]
            self._identities += [(own["_parameters"], name) for name in own["_parameters"]]
            for registered in (own["_buffers"], own["_parameters"]):
                for name, value in registered.items():
                    if value is None:
                        self._simple.append((registered, name))
                    elif id(value) not in known:  # a tied tensor once, under its first name
                        known.add(id(value))
                        tensors[prefix + name] = (registered, name)
            for name, value in own.items():
                if isinstance(value, Tensor):
                    self._plain[prefix + name] = tensors[prefix + name] = (own, name)
                elif name not in _BOOKKEEPING and is_simple(value):
                    self._simple.append((own, name))
        self.names, self._tensors = list(tensors), list(tensors.values())
        self._seen = self._fingerprint()
        if self._seen not in self._tokens:
            if len(self._tokens) >= _KEPT_TOKENS:  # an attribute that changes at every call
                self._tokens.clear()
            self._issued += 1
            self._tokens[self._seen] = self._issued
        self._token = self._tokens[self._seen]


def is_simple(value: object) -> bool:
    """Whether a value is compared as cheaply as a number: one that can be part of a signature."""
    if type(value) is tuple:
        return all(is_simple(part) for part in value)
    return type(value) in _SIMPLE or isinstance(value, _SIMPLE_BY_IDENTITY)
