"""What TorchDynamo does otherwise while it records a loss: each is a method of its, and ours in terms of that.

Nobody sees what a recorded loss does to its inputs, and no graph is broken: so some of what Dynamo leaves to Python it
can record here.
"""

import gc
import sys
import threading
from collections.abc import Callable, Collection
from functools import partial
from inspect import signature
from types import FunctionType
from typing import Any
from unittest.mock import patch

from torch import Tensor

from alpha_func import torch_private
from alpha_func.calls import Args, Function, Kwargs
from alpha_func.capture.tracing.before_recording import BEFORE_RECORDING, INLINED
from alpha_func.capture.tracing.reading import READING

Variable = Any  # TorchDynamo's, which stands for a value: a VariableTracker
Translator = Any  # TorchDynamo's, of a frame: an InstructionTranslator


def changes(trust: Collection[object]) -> list[tuple[object, str, Function]]:
    """The owner, the name of its method, and ours of that, as far as a release has it; ``trust``: functions that are
    recorded as their forward."""
    found = []
    for where, name, ours in (*_CHANGES, *READING):
        owner = torch_private.of_dynamo(where)
        if hasattr(owner, name):
            found.append((owner, name, partial(ours, trust) if ours is _trusted_are_their_forward else ours))
    return found


def _own_globals(of_module: Callable[[object, str], object]) -> Callable[[object, str], object]:
    """Read a function's globals where they are: Dynamo takes the module of their ``__name__``, which for code that was
    exec'd is another one, or none.
    """
    from torch._dynamo.source import DictGetItemSource, GlobalSource
    from torch._dynamo.variables.builder import VariableBuilder

    def found(translator: Translator, name: str) -> Any:
        names = translator.f_globals
        module = sys.modules.get(names.get("__name__", ""))
        if module is not None and vars(module) is names:
            return of_module(translator, name)
        source = GlobalSource(translator.output.install_global_by_id("___unnamed_scope", names))
        return names, VariableBuilder(translator, source)(names), DictGetItemSource(source, name)

    return found


def _locks_are_entered(enter: Callable[..., None]) -> Callable[..., None]:
    """Record what runs under a lock: no other thread is in a recording."""
    from torch._dynamo.variables.ctx_manager import NullContextVariable

    def entered(self: Any, *args: object) -> None:
        if isinstance(getattr(self.stack[-1], "value", None), _LOCKS):
            self.stack[-1] = NullContextVariable()
        enter(self, *args)

    return entered


def _some_are_others(call_function: Function) -> Function:
    """Record what stands for a function of Python."""
    from torch._dynamo.variables.base import VariableTracker

    def call(self: Variable, tx: Translator, args: Args, kwargs: Kwargs) -> Variable:
        function = getattr(self, "fn", None) or getattr(self, "value", None)
        ours = INLINED.get(function) if isinstance(function, FunctionType) else None
        if ours is None:
            return call_function(self, tx, args, kwargs)
        its_own = self.self_args() if hasattr(self, "self_args") else ()  # of a method
        return VariableTracker.build(tx, ours).call_function(tx, [*its_own, *args], kwargs)

    return call


def _proxies_change_with_their_dict(refuse_after_any: Function) -> Function:
    """Read a ``MappingProxyType`` (``inspect.Signature``) after writes to other dictionaries than the one it shows."""

    def checked(self: Variable, tx: Translator) -> None:
        (shown,) = gc.get_referents(torch_private.value_at(self.source, tx)) if self.source else ({},)
        known = tx.output.side_effects.id_to_variable.get(id(shown))
        if not isinstance(shown, dict) or (known is not None and tx.output.side_effects.is_modified(known)):
            refuse_after_any(self, tx)

    return checked


def _inputs_may_require_grad(of_intermediates: Function) -> Function:
    """Record ``requires_grad_`` of an input, which is an alias here."""

    def requires_grad_(self: Variable, tx: object, *args: object, **kwargs: object) -> Variable:
        source, self.source = self.source, None
        try:
            return of_intermediates(self, tx, *args, **kwargs)
        finally:
            self.source = source

    return requires_grad_


def _flags_may_be_set(set_attribute: Function) -> Function:
    """Record ``x.requires_grad = True`` as ``x.requires_grad_()``."""

    def assign(self: object, tx: Translator, owner: Variable, name: Variable, value: Variable) -> Variable:
        if not owner.is_tensor() or not name.is_python_constant() or name.as_python_constant() != "requires_grad":
            return set_attribute(self, tx, owner, name, value)
        owner.call_method(tx, "requires_grad_", [value], {})
        return value

    return assign


def _leaves_may_be_made(call_function: Function) -> Function:
    """Record ``torch.zeros(..., requires_grad=True)`` as the two calls that it is."""

    def call(self: Variable, tx: Translator, args: Args, kwargs: Kwargs) -> Variable:
        wanted = kwargs.get("requires_grad")
        if wanted is None or not wanted.is_python_constant() or not wanted.as_python_constant():
            return call_function(self, tx, args, kwargs)
        made = call_function(self, tx, args, {name: value for name, value in kwargs.items() if value is not wanted})
        return made.call_method(tx, "requires_grad_", [], {}) if made.is_tensor() else made

    return call


def _trusted_are_their_forward(trust: Collection[object], with_its_backward: Function) -> Function:
    """Record the forward of a trusted ``autograd.Function`` like any other function."""
    from torch._dynamo.source import AttrSource
    from torch._dynamo.variables.base import VariableTracker
    from torch._dynamo.variables.misc import AutogradFunctionContextVariable

    def call(self: Variable, tx: Translator, args: list[Variable], kwargs: dict[str, Variable]) -> Variable:
        if self.fn_cls not in trust:
            return with_its_backward(self, tx, args, kwargs)
        forward = self.fn_cls.forward
        if len(signature(forward).parameters) > len(args) + len(kwargs):  # no setup_context
            args = [AutogradFunctionContextVariable.create(tx, args, kwargs), *args]
        source = AttrSource(self.source, "forward") if self.source else None
        return VariableTracker.build(tx, forward, source=source, realize=True).call_function(tx, args, kwargs)

    return call


def _methods_are_functions(call_method: Function) -> Function:
    """Record ``x.cov()`` as ``torch.cov(x)``, where that is recorded in other operators."""
    from torch._dynamo.variables.base import VariableTracker

    named = {getattr(function, "__name__", ""): ours for function, ours in BEFORE_RECORDING.items()}
    functions = {name: ours for name, ours in named.items() if hasattr(Tensor, name)}

    def call(self: Variable, tx: Translator, name: str, args: list[Variable], kwargs: dict[str, Variable]) -> Variable:
        ours = functions.get(name)
        if ours is None:
            return call_method(self, tx, name, args, kwargs)
        return VariableTracker.build(tx, ours).call_function(tx, [self, *args], kwargs)

    return call


def _gradients_may_have_a_graph(method_backward: Function) -> Function:
    """What ``backward(create_graph=True)`` adds to ``.grad`` with its derivatives: Dynamo adds it without."""
    from torch._dynamo.variables.ctx_manager import GradModeVariable

    create = GradModeVariable.create

    def backward(self: Variable, tx: Translator, *args: Variable, **kwargs: Variable) -> Variable:
        wanted = kwargs.get("create_graph", args[2] if len(args) > 2 else None)
        if wanted is None or not wanted.is_python_constant() or not wanted.as_python_constant():
            return method_backward(self, tx, *args, **kwargs)
        with patch.object(GradModeVariable, "create", lambda tx, mode, **kwargs: create(tx, True, **kwargs)):
            return method_backward(self, tx, *args, **kwargs)

    return backward


def _guards_are_not_timed(timed: Function) -> Callable[..., float]:
    """Dynamo empties the processor's cache to time new guards, for its log: a sixth of a small capture."""
    return lambda *_: 0.0


def _guards_are_built_again(set_export_info: Function) -> Function:
    """Dynamo builds every guard twice, and compares what the two are on: an array is another tensor at each."""

    def anew(self: Any, *args: object) -> None:
        self.obj_weakref = None
        set_export_info(self, *args)

    return anew


_LOCKS = (type(threading.Lock()), type(threading.RLock()))


_CHANGES: list[tuple[str, str, Function]] = [
    ("guards", "profile_guard_manager", _guards_are_not_timed),
    ("guards.Guard", "set_export_info", _guards_are_built_again),
    ("symbolic_convert.InliningInstructionTranslator", "get_globals_source_and_value", _own_globals),
    ("symbolic_convert.InstructionTranslatorBase", "setup_or_before_with", _locks_are_entered),
    ("variables.builtin.SetAttrBuiltinVariable", "_call_setattr", _flags_may_be_set),
    ("variables.dicts.MappingProxyVariable", "_check_mutation_guard", _proxies_change_with_their_dict),
    ("variables.functions.SkipFunctionVariable", "call_function", _some_are_others),
    ("variables.functions.UserFunctionVariable", "call_function", _some_are_others),
    ("variables.misc.AutogradFunctionVariable", "call_apply", _trusted_are_their_forward),
    ("variables.tensor.TensorVariable", "call_method", _methods_are_functions),
    ("variables.tensor.TensorVariable", "method_backward", _gradients_may_have_a_graph),
    ("variables.tensor.TensorVariable", "method_requires_grad_", _inputs_may_require_grad),
    ("variables.torch.TorchInGraphFunctionVariable", "call_function", _leaves_may_be_made),
]
