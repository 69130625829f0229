"""Hooks that a loss puts on its own modules on the way, as TorchDynamo can record them.

PyTorch numbers them with a counter of the class, and Dynamo takes what a module had no hooks in for a constant. Here a
module is given another dictionary instead, which is an attribute like any other: nothing is seen of it afterwards, and
the hooks run where PyTorch's own call of a module runs them. Those of the backward are no part of a loss.
"""

from typing import Any

from torch import nn

from alpha_func.calls import Function


class Handle:
    """A hook of a module, to be taken off again."""

    def __init__(self, module: nn.Module, hooks: str, hook: Function, prepend: bool, marked: tuple[str, ...]):
        self.module, self.names, self.number = module, (hooks, *marked), _below(getattr(module, hooks))
        own = {self.number: hook}
        others = getattr(module, hooks)
        setattr(module, hooks, {**own, **others} if prepend else {**others, **own})
        for mark in marked:
            setattr(module, mark, {**getattr(module, mark), self.number: True})

    def remove(self) -> None:
        """Take it off; once."""
        for name in self.names:
            kept = {number: hook for number, hook in getattr(self.module, name).items() if number != self.number}
            setattr(self.module, name, kept)
        self.names = ()

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _below(hooks: dict[int, Any]) -> int:
    """A number that none of these has: PyTorch's are not negative."""
    number = -1
    for each in hooks:
        number = each - 1 if each <= number else number
    return number


def register_forward_hook(
    self: nn.Module, hook: Function, *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
) -> Handle:
    """``nn.Module.register_forward_hook``; where the forward raises, nothing is recorded."""
    return Handle(self, "_forward_hooks", hook, prepend, ("_forward_hooks_with_kwargs",) if with_kwargs else ())


def register_forward_pre_hook(
    self: nn.Module, hook: Function, *, prepend: bool = False, with_kwargs: bool = False
) -> Handle:
    """``nn.Module.register_forward_pre_hook``."""
    marked = ("_forward_pre_hooks_with_kwargs",) if with_kwargs else ()
    return Handle(self, "_forward_pre_hooks", hook, prepend, marked)


REGISTERED: dict[Function, Function] = {
    nn.Module.register_forward_hook: register_forward_hook,
    nn.Module.register_forward_pre_hook: register_forward_pre_hook,
}
