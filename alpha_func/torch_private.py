"""What the library uses of PyTorch that PyTorch does not promise to keep, in one room.

``tests/test_torch_private.py`` fails by name where a release takes one of them away. TorchDynamo is imported at its
first use: it takes as long to import as torch itself.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import CodeType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch._C import _AutoDispatchBelowAutograd as dispatch_below_autograd
from torch._C import _current_graph_task_id as current_graph_task_id
from torch._C import _get_mkldnn_enabled as get_mkldnn_enabled
from torch._C import _is_any_autocast_enabled as any_autocast_enabled
from torch._C import _len_torch_dispatch_stack as dispatch_modes
from torch._C import _set_mkldnn_enabled as set_mkldnn_enabled
from torch._C._functorch import get_dynamic_layer_stack_depth as transform_depth
from torch._C._functorch import (
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
    maybe_get_bdim,
    peek_interpreter_stack,
    pop_dynamic_layer_stack_and_undo_to_depth,
)
from torch._decomp import get_decompositions
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as modes_disabled

__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "TorchDispatchMode",
    "UnsupportedOperatorException",
    "any_autocast_enabled",
    "current_graph_task_id",
    "dispatch_below_autograd",
    "dispatch_modes",
    "fake_tensor",
    "get_decompositions",
    "get_mkldnn_enabled",
    "get_unwrapped",
    "is_batchedtensor",
    "is_functorch_wrapped_tensor",
    "maybe_get_bdim",
    "modes_disabled",
    "peek_interpreter_stack",
    "set_mkldnn_enabled",
    "temporarily_clear_interpreter_stack",
    "transform_depth",
]

# What TorchDynamo leaves out of its guards for speed is in them here; what it would guess or skip is an error. It reads
# these when it records, not when it evaluates guards. A release that lacks one has it built in, or has not got it.
STRICT: dict[str, Any] = {
    "accumulated_recompile_limit": 10**9,
    "allow_rnn": True,
    "assume_dunder_attributes_remain_unchanged": False,
    "assume_static_by_default": True,
    "automatic_dynamic_shapes": False,
    "fail_on_recompile_limit_hit": True,
    "guard_nn_modules_using_dict_tags": False,
    "replay_side_effects": True,
    "skip_nnmodule_hook_guards": False,
    "skip_no_tensor_aliasing_guards_on_parameters": False,
    "skip_tensor_guards_with_matching_dict_tags": False,
    "specialize_float": True,
    "specialize_int": True,
    "suppress_errors": False,
    "trace_autograd_ops": True,
    "use_recursive_dict_tags_for_guards": False,
}
GLOBAL_HOOKS: tuple[dict[int, Any], ...] = (
    torch.nn.modules.module._global_forward_hooks,
    torch.nn.modules.module._global_forward_pre_hooks,
)
# What ``fully_shard`` leaves in a module for Dynamo, which then guards nothing of it.
FSDP_MARKS = frozenset(("_is_fsdp_managed_module", "_fsdp_use_orig_params"))
GLOBAL_BACKWARD_HOOKS: tuple[dict[int, Any], ...] = (
    torch.nn.modules.module._global_backward_hooks,
    torch.nn.modules.module._global_backward_pre_hooks,
)
Backend = Callable[[fx.GraphModule, list[Tensor]], Callable[..., Any]]


def recorded_by(
    backend: Backend,
    guarded: Callable[[list[Any]], None],
    function: Callable[..., Any],
    limit: int,
    constants: tuple[str, ...] = (),
) -> Callable[..., Any]:
    """``function`` as TorchDynamo runs it: one graph, which ``backend`` is given, under strict guards, or not at all.

    Args:
        backend: takes the graph and gives what is called with its inputs as long as the guards hold.
        guarded: is given every object that a guard of the new graph is on.
        function: a function with a code object of its own, on which Dynamo keeps its graphs.
        limit: how many graphs are kept; the next one raises ``RecordingLimit``.
        constants: what begins the sources of all that is known never to change, and is not guarded.
    """
    from torch._dynamo import optimize_assert
    from torch._dynamo.hooks import Hooks

    def every_guard(entries: Sequence[Any]) -> list[bool]:
        guarded([entry.value for entry in entries if entry.has_value])
        return [not entry.orig_guard.name.startswith(constants) for entry in entries]

    context = optimize_assert(backend, hooks=Hooks(guard_filter_fn=every_guard))
    context.callback = _Strictly(context.callback, limit)
    return context(function)


def guards_of(function: Callable[..., Any], names: dict[str, Any]) -> Callable[[dict[str, Any]], bool] | None:
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


class _Strictly:
    """Dynamo's callback, which is called when no graph's guards hold, with our settings around it."""

    def __init__(self, callback: Any, limit: int):
        self.callback, self._limit = callback, limit
        self._torchdynamo_orig_backend = callback._torchdynamo_orig_backend

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch._dynamo import config
        from torch._dynamo.symbolic_convert import InliningInstructionTranslator as Inlined

        own = _own_globals(Inlined.get_globals_source_and_value)
        known = {name: value for name, value in STRICT.items() if hasattr(config, name)}
        with config.patch(**known, recompile_limit=self._limit, ignore_logging_functions=_talk()):  # noqa: SIM117
            with warnings.catch_warnings(), patch.object(Inlined, "get_globals_source_and_value", own):
                warnings.simplefilter("ignore")  # Dynamo's own
                return self.callback(*args, **kwargs)


def _own_globals(of_module: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Let Dynamo read a function's globals where they are: it takes the module of their ``__name__``, which for code
    that was exec'd is another one, or none.
    """
    from torch._dynamo.source import DictGetItemSource, GlobalSource
    from torch._dynamo.variables.builder import VariableBuilder

    def found(translator: Any, name: str) -> Any:
        names = translator.f_globals
        module = sys.modules.get(names.get("__name__", ""))
        if module is not None and vars(module) is names:
            return of_module(translator, name)
        source = GlobalSource(translator.output.install_global_by_id("___unnamed_scope", names))
        return names, VariableBuilder(translator, source)(names), DictGetItemSource(source, name)

    return found


def _talk() -> set[Any]:
    """What a loss may say on the way, which is not part of its value; packages add methods, too (``warning_once``)."""
    levels = ("debug", "info", "warn", "error", "exception", "critical", "log")
    owners = (vars(logging), vars(logging.Logger))
    said = [value for names in owners for name, value in names.items() if name.startswith(levels)]
    return {print, warnings.warn, *filter(callable, said)}


@cache
def substitute(function: Callable[..., Any], composition: Callable[..., Any]) -> None:
    """Let Dynamo trace ``composition`` where ``function`` is called; for the whole process, as it keeps one table."""
    from torch._dynamo.trace_rules import get_torch_obj_rule_map

    get_torch_obj_rule_map().pop(function, None)  # as a call in the graph, whole
    torch.compiler.substitute_in_graph(function, skip_signature_check=True)(composition)


def limit_reached() -> type[Exception]:
    """What Dynamo raises at its limit of graphs."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    return FailOnRecompileLimitHit


def allowed_in_graph(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``function``, a call of which is a node of Dynamo's graph."""
    from torch._dynamo import allow_in_graph

    return allow_in_graph(function)  # type: ignore[no-untyped-call]


def traced_code() -> set[CodeType]:
    """Within a backend: the code of every Python function that went into the graph."""
    return set(torch._guards.TracingContext.get_traced_code() or ())


def source_of(placeholder: fx.Node) -> str:
    """Where Dynamo reads an input of its graph, as Python would write it."""
    return str(placeholder._dynamo_source.name)  # type: ignore[attr-defined]


def drops_a_backward(node: fx.Node) -> bool:
    """Whether a node of Dynamo's graph stands for an ``autograd.Function`` with its own backward."""
    return "autograd_function_apply" in str(node.target)


def reads_data(node: fx.Node) -> bool:
    """Whether a node of Dynamo's graph reads ``.data``."""
    return "_get_data_attr" in str(node.target)


def enters_a_transform(node: fx.Node) -> bool:
    """Whether a node of Dynamo's graph opens a level of torch.func."""
    return getattr(node.target, "__name__", "").endswith("_increment_nesting")


def fake_tensor(
    shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, device: torch.device, mode: FakeTensorMode
) -> Tensor:
    """A fake tensor with memory of its own, without a call through the dispatcher of ``mode``."""
    return FakeTensor(mode, torch.empty_strided(shape, stride, dtype=dtype, device="meta"), device)


@contextmanager
def saved_tensors_hooks_allowed() -> Iterator[None]:
    """Hooks on what a graph saves (checkpointing), which a transform of torch.func around forbids."""
    autograd = torch._C._autograd
    message = autograd._saved_tensors_hooks_get_disabled_error_message()
    autograd._saved_tensors_hooks_enable()
    try:
        yield
    finally:
        if message is not None:
            autograd._saved_tensors_hooks_disable(message)


def plain_beneath(tensor: Tensor) -> Tensor:
    """The tensor beneath the transforms of torch.func."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def forward_level() -> int:
    """How many levels of forward-mode differentiation are open, less one."""
    return int(forward_ad._current_level)


def close_levels(depth: int, level: int) -> None:
    """Close what a graph that failed half-way has left open: levels of torch.func above ``depth``, of forward mode."""
    pop_dynamic_layer_stack_and_undo_to_depth(depth)
    while forward_ad._current_level > level:
        forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]


def fsdp_computes_in(module: torch.nn.Module) -> torch.dtype | None:
    """The dtype that ``fully_shard`` casts the parameters of a module to, if it does."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(module, fsdp.FSDPModule):
        return None
    found: torch.dtype | None = module._get_fsdp_state()._mp_policy.param_dtype
    return found
