"""What the library uses of PyTorch that PyTorch does not promise to keep, in one room.

``tests/torch_private`` fails by name where a release takes one of them away.
"""

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
)
from torch._decomp import get_decompositions
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as modes_disabled
from torch.utils.checkpoint import _checkpoint_without_reentrant_generator as checkpoint_generator

from alpha_func.torch_private.compiled import recordable, uncompiled
from alpha_func.torch_private.dynamo import (
    STRICT,
    Backend,
    RecordingLimit,
    allowed_in_graph,
    drops_a_backward,
    example_of,
    guards_of,
    laid_out_as,
    levels_opened,
    of_dynamo,
    reads_data,
    reads_of_this_graph,
    recorded_by,
    registers_a_hook,
    sets_requires_grad,
    source_of,
    substitute,
    traced_code,
    value_at,
)
from alpha_func.torch_private.levels import (
    close_levels,
    forward_level,
    is_forward_over_forward,
    plain_beneath,
    printed_by_type,
    saved_tensors_hooks_allowed,
)
from alpha_func.torch_private.modules import (
    FSDP_MARKS,
    GLOBAL_BACKWARD_HOOKS,
    GLOBAL_HOOKS,
    fsdp_dtypes,
)
from alpha_func.torch_private.operators import (
    allocates,
    compiled_by_inductor,
    composite_in_place,
    decomposed,
    given_to,
    inductor_decompositions,
    is_composite,
    is_written,
    out_argument,
    registered,
    returning,
    writes_in_place,
)
from alpha_func.torch_private.tensors import (
    added,
    fake_tensor,
    fake_view,
    memory_id,
    norms,
    subtracted,
)

__all__ = [
    "FSDP_MARKS",
    "GLOBAL_BACKWARD_HOOKS",
    "GLOBAL_HOOKS",
    "STRICT",
    "Backend",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "LazyGraphModule",
    "OpOverload",
    "RecordingLimit",
    "TorchDispatchMode",
    "UnsupportedOperatorException",
    "added",
    "allocates",
    "allowed_in_graph",
    "any_autocast_enabled",
    "checkpoint_generator",
    "close_levels",
    "compiled_by_inductor",
    "composite_in_place",
    "current_graph_task_id",
    "decomposed",
    "dispatch_below_autograd",
    "dispatch_modes",
    "drops_a_backward",
    "example_of",
    "fake_tensor",
    "fake_view",
    "forward_level",
    "fsdp_dtypes",
    "get_decompositions",
    "get_mkldnn_enabled",
    "get_unwrapped",
    "given_to",
    "guards_of",
    "inductor_decompositions",
    "is_batchedtensor",
    "is_composite",
    "is_forward_over_forward",
    "is_functorch_wrapped_tensor",
    "is_written",
    "laid_out_as",
    "levels_opened",
    "maybe_get_bdim",
    "memory_id",
    "modes_disabled",
    "norms",
    "of_dynamo",
    "out_argument",
    "peek_interpreter_stack",
    "plain_beneath",
    "printed_by_type",
    "pytree",
    "reads_data",
    "reads_of_this_graph",
    "recordable",
    "recorded_by",
    "registered",
    "registers_a_hook",
    "returning",
    "saved_tensors_hooks_allowed",
    "set_mkldnn_enabled",
    "sets_requires_grad",
    "source_of",
    "substitute",
    "subtracted",
    "temporarily_clear_interpreter_stack",
    "traced_code",
    "transform_depth",
    "uncompiled",
    "value_at",
    "writes_in_place",
]
