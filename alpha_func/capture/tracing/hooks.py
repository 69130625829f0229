"""Hooks that a loss puts on its own modules on the way, as TorchDynamo can record them.

PyTorch numbers them with a counter of the class, and Dynamo takes what a module had no hooks in for a constant. Here a
module is given another dictionary instead, which is an attribute like any other: nothing is seen of it afterwards, and
the hooks run where PyTorch's own call of a module runs them. Those on gradients stay refused.
"""

from typing import Any

from torch import nn

from alpha_func.calls import Function


class Handle:
    """A hook of a module, to be taken off again: by its id, of the dictionaries of these names."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], id: int):
        self.module, self.names, self.id = module, names, id

    def remove(self) -> None:
        """Take it off; once."""
        for name in self.names:
            kept = {id: hook for id, hook in getattr(self.module, name).items() if id != self.id}
            setattr(self.module, name, kept)
        self.names = ()

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def register_forward_hook(
    self: nn.Module, hook: Function, *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
) -> Handle:
    """``nn.Module.register_forward_hook``; where the forward raises, nothing is recorded."""
    return _put(self, "_forward_hooks", hook, prepend, with_kwargs)


def register_forward_pre_hook(
    self: nn.Module, hook: Function, *, prepend: bool = False, with_kwargs: bool = False
) -> Handle:
    """``nn.Module.register_forward_pre_hook``."""
    return _put(self, "_forward_pre_hooks", hook, prepend, with_kwargs)


def _put(module: nn.Module, name: str, hook: Function, prepend: bool, with_kwargs: bool) -> Handle:
    others, id = getattr(module, name), _below(getattr(module, name))
    setattr(module, name, {id: hook, **others} if prepend else {**others, id: hook})
    if not with_kwargs:
        return Handle(module, (name,), id)
    mark = f"{name}_with_kwargs"
    setattr(module, mark, {**getattr(module, mark), id: True})
    return Handle(module, (name, mark), id)


def _below(hooks: dict[int, Any]) -> int:
    """An id that none of these has: PyTorch's are not negative."""
    id = -1
    for each in hooks:
        id = each - 1 if each <= id else id
    return id


REGISTERED: dict[Function, Function] = {
    nn.Module.register_forward_hook: register_forward_hook,
    nn.Module.register_forward_pre_hook: register_forward_pre_hook,
}
