"""TorchDynamo: how it is told to record, and what its graphs and guards say.

It is imported at its first use: it takes as long to import as torch itself.
"""

import logging
import pkgutil
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from types import CodeType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx

from alpha_func.calls import Function

# What TorchDynamo leaves out of its guards for speed is in them here; what it would guess or skip is an error. It reads
# these when it records, not when it evaluates guards. A release that lacks one has it built in, or has not got it.
STRICT: dict[str, Any] = {
    "accumulated_recompile_limit": 10**9,
    "allow_rnn": True,
    "assume_dunder_attributes_remain_unchanged": False,
    "assume_static_by_default": True,
    "automatic_dynamic_shapes": False,
    "enable_dynamo_decompositions": False,  # into prims of Inductor's, and with other numerics
    "guard_nn_modules_using_dict_tags": False,
    "recompile_limit": 10**9,  # the limit is ours: at its own Dynamo warns
    "replay_side_effects": True,
    "run_gc_after_compile": False,  # the collector is at rest
    "side_effect_replay_policy": "silent",  # a stack of each, which nobody reads
    "skip_nnmodule_hook_guards": False,
    "skip_no_tensor_aliasing_guards_on_parameters": False,
    "skip_tensor_guards_with_matching_dict_tags": False,
    "specialize_float": True,
    "specialize_int": True,
    "suppress_errors": False,
    "trace_autograd_ops": True,
    "use_recursive_dict_tags_for_guards": False,
}
Changes = list[tuple[object, str, Function]]
Backend = Callable[[fx.GraphModule, list[Tensor]], Function]


def recorded_by(
    backend: Backend,
    guarded: Callable[[list[Any]], None],
    function: Function,
    changes: Changes,
    limit: int,
    constants: tuple[str, ...] = (),
) -> Function:
    """``function`` as TorchDynamo runs it: one graph, which ``backend`` is given, under strict guards, or not at all.

    Args:
        backend: takes the graph and gives what is called with its inputs as long as the guards hold.
        guarded: is given every object that a guard of the new graph is on.
        function: a function with a code object of its own, on which Dynamo keeps its graphs.
        changes: methods of Dynamo's that are others while it records: owner, name, and ours in terms of the method.
        limit: how many graphs are kept; the next one raises ``RecordingLimit``.
        constants: what begins the sources of all that is known never to change, and is not guarded.
    """
    from torch._dynamo import optimize_assert
    from torch._dynamo.hooks import Hooks

    def every_guard(entries: Sequence[Any]) -> list[bool]:
        guarded([entry.value for entry in entries if entry.has_value])
        return [not entry.orig_guard.name.startswith(constants) for entry in entries]

    # The code itself may stay in one of Dynamo's tables.
    forgotten = weakref.finalize(function, _forget, function.__code__)
    forgotten.atexit = False
    context = optimize_assert(backend, hooks=Hooks(guard_filter_fn=every_guard))
    context.callback = _Strictly(context.callback, function.__code__, changes, limit)
    return context(function)


def _forget(code: CodeType) -> None:
    """Let go of all that Dynamo keeps of a function that nobody can call any more."""
    with suppress(AttributeError):
        torch._C._dynamo.eval_frame.reset_code(code)


def guards_of(function: Function, names: dict[str, object]) -> Callable[[dict[str, Any]], bool] | None:
    """The guards of the graph that Dynamo has just run for a call of ``function``, to ask them without a call.

    Args:
        function: what ``recorded_by`` was given.
        names: its arguments by name, at that call.

    Returns:
        Whether they hold for arguments by name; None where a release has no such way.
    """
    try:
        for entry in torch._C._dynamo.eval_frame._debug_get_cache_entry_list(function.__code__):
            manager = entry.guard_manager
            if manager.check(names) and manager.cache_entry is not None:
                return lambda names: manager.cache_entry is not None and manager.check(names)  # none: it was dropped
    except (AttributeError, TypeError, RuntimeError):
        pass
    return None


def laid_out_as(tensors: Sequence[Any]) -> Callable[[list[Any]], bool] | None:
    """What tells whether a list has tensors of the types, dispatch keys, dtypes, devices, ``requires_grad``, shapes and
    strides of these; None where they have none, where nothing has imported Dynamo, or a release has no such way.
    """
    dynamo = sys.modules.get("torch._dynamo.guards")
    plain = all(type(each) in (Tensor, torch.nn.Parameter) and each.layout is torch.strided for each in tensors)
    if dynamo is None or not plain:
        return None
    try:
        kind = dynamo.GuardManagerType.GUARD_MANAGER
        root = torch._C._dynamo.guards.RootGuardManager()
        root.add_length_check_guard(len(tensors), ["length"], None)
        for i, tensor in enumerate(tensors):
            shape, strides, keys = list(tensor.shape), list(tensor.stride()), torch._C._dispatch_keys(tensor)
            item = root.list_getitem_manager(i, f"[{i}]", tensor, kind)
            item.add_tensor_match_guard(tensor, shape, strides, f"[{i}]", ["layout"], None, type(tensor), keys)
        return root.check if root.check(list(tensors)) else None
    except (AttributeError, TypeError, RuntimeError):
        return None


class RecordingLimit(Exception):  # noqa: N818  not an error
    """As many graphs of a function are kept as may be, and none holds."""


class _Strictly:
    """Dynamo's callback, which is called when no graph's guards hold, with our settings around it."""

    def __init__(self, callback: Any, code: CodeType, changes: Changes, limit: int):
        self.callback, self._code, self._changes, self._left = callback, code, changes, limit
        self._torchdynamo_orig_backend = callback._torchdynamo_orig_backend

    def __call__(self, frame: Any, *args: object, **kwargs: object) -> Any:
        from torch._dynamo import config

        is_ours = frame.f_code is self._code
        if is_ours and not self._left:
            raise RecordingLimit
        known = {name: value for name, value in STRICT.items() if hasattr(config, name)}
        with ExitStack() as stack:
            stack.enter_context(config.patch(**known, ignore_logging_functions=_talk()))
            for owner, name, ours in self._changes:
                stack.enter_context(patch.object(owner, name, ours(getattr(owner, name))))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # Dynamo's own
            found = self.callback(frame, *args, **kwargs)
        self._left -= is_ours
        return found


def _talk() -> set[object]:
    """What a loss may say on the way, which is not part of its value; packages add methods, too (``warning_once``)."""
    levels = ("debug", "info", "warn", "error", "exception", "critical", "log")
    owners = (vars(logging), vars(logging.Logger))
    talkers = [value for names in owners for name, value in names.items() if name.startswith(levels)]
    return {print, warnings.warn, *filter(callable, talkers)}


@cache
def substitute(function: Function, composition: Function) -> None:
    """Let Dynamo trace ``composition`` where ``function`` is called; for the whole process, as it keeps one table."""
    from torch._dynamo.trace_rules import get_torch_obj_rule_map

    get_torch_obj_rule_map().pop(function, None)  # as a call in the graph, whole
    torch.compiler.substitute_in_graph(function, skip_signature_check=True)(composition)


def of_dynamo(where: str) -> Any:
    """A module or class of Dynamo's; None where a release has none of that name."""
    try:
        return pkgutil.resolve_name(f"torch._dynamo.{where}")
    except (ImportError, AttributeError):
        return None


def allowed_in_graph(function: Function) -> Function:
    """``function``, a call of which is a node of Dynamo's graph."""
    from torch._dynamo import allow_in_graph

    return allow_in_graph(function)  # type: ignore[no-untyped-call]


def traced_code() -> set[CodeType]:
    """Within a backend: the code of every Python function that went into the graph."""
    return set(torch._guards.TracingContext.get_traced_code() or ())


def source_of(placeholder: fx.Node) -> str:
    """Where Dynamo reads an input of its graph, as Python would write it."""
    source = getattr(placeholder, "_dynamo_source", None) or placeholder.meta["grapharg"].source  # while it records
    return str(source.name)


def example_of(placeholder: fx.Node) -> Any:
    """What Dynamo records an input of its graph with, while it does."""
    return placeholder.meta["grapharg"].example


def value_at(source: Any, translator: Any) -> Any:
    """What stands at a source as Dynamo began to record."""
    root = translator.output.root_tx
    return eval(source.name, {"G": root.f_globals, "L": root.f_locals})


def reads_of_this_graph() -> list[Any]:
    """While Dynamo records, and within a backend: a list that is this graph's own."""
    context = torch._guards.TracingContext.get()
    if not hasattr(context, "alpha_func_reads"):
        context.alpha_func_reads = []  # type: ignore[attr-defined]
    found: list[Any] = context.alpha_func_reads  # type: ignore[attr-defined]
    return found


def drops_a_backward(node: fx.Node) -> bool:
    """Whether a node of Dynamo's graph stands for an ``autograd.Function`` with its own backward."""
    return "autograd_function_apply" in str(node.target)


def registers_a_hook(node: fx.Node) -> bool:
    """Whether a node of Dynamo's graph is ``Tensor.register_hook``."""
    return "register_hook" in str(node.target)


def reads_data(node: fx.Node) -> bool:
    """Whether a node of Dynamo's graph reads ``.data``."""
    return "_get_data_attr" in str(node.target)


def sets_requires_grad(node: fx.Node) -> bool:
    """Whether a node of Dynamo's graph calls ``requires_grad_``, or allows it."""
    return node.target in ("requires_grad_", torch._C._functorch.set_inplace_requires_grad_allowed)


def levels_opened(node: fx.Node) -> int:
    """How many levels of torch.func a node of Dynamo's graph opens: 1, 0, or −1 where it closes one."""
    name = getattr(node.target, "__name__", "")
    return name.endswith("_increment_nesting") - name.endswith("_decrement_nesting")
