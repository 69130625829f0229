"""A loss, run once on tensors without data, as a graph of primitive operators.

Nothing is computed: fake tensors carry shapes, dtypes and devices only. That makes a trace cost no memory, and it is
what shows a tensor that the loss closed over (it has data) and control flow that depends on values (there are none).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from alpha_func import tree
from alpha_func.capture.rewrites.differentiable import differentiable
from alpha_func.capture.tracing.compositions import BY_FUNCTION
from alpha_func.capture.tracing.lowering import RENAMED, decompositions
from alpha_func.capture.tracing.refusal import EAGER, here, where
from alpha_func.errors import CaptureError
from alpha_func.losses.kernels import twice_differentiable

aten = torch.ops.aten
_LIFTS = (aten.lift_fresh.default, aten.lift_fresh_copy.default)  # of constants that the loss itself makes
_FILLS = {  # draws that take the shape of their first operand, and no value
    *(aten.bernoulli.p, aten.cauchy.default, aten.exponential.default, aten.geometric.default, aten.log_normal.default),
    *(aten.normal_functional.default, aten.rand_like.default, aten.randn_like.default, aten.uniform.default),
    *(aten.randint_like.default, aten.randint_like.low_dtype),
}
_LEAVES_TORCH = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__}


def trace(function: Callable[..., Tensor], like: list[Tensor], *, constants: bool) -> fx.GraphModule:
    """The graph of ``function(*tensors)``, for tensors of the shapes, dtypes and devices of ``like``.

    Every operator in it is functional; ``aten.detach`` stands where the function stops derivatives (``detach``,
    ``.data``, ``torch.no_grad``).

    Raises:
        CaptureError: the function cannot be written as such a graph.
    """
    with _outside(), FakeTensorMode(allow_non_fake_inputs=True):
        inputs = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in like]

    def watched(*leaves: Tensor) -> Tensor:
        before = torch.default_generator.get_state()
        with _Dispatched(constants), _Called(constants):
            value = function(*leaves)
        if not torch.equal(before, torch.default_generator.get_state()):
            torch.default_generator.set_state(before)
            raise CaptureError(
                "the loss seeds the global RNG itself, which a program would not: leave that to "
                "functional_loss(module, criterion, seed=...)"
            )
        return value

    with _outside():
        inputs[0].fake_mode.allow_non_fake_inputs = constants  # type: ignore[attr-defined]
        try:
            traced = _traced(watched, inputs, constants)
            if any(_changes_something(node) for node in traced.graph.nodes):
                # Composites that functionalize does not see into, RNNs for one, write in place within themselves.
                traced = _traced(traced, inputs, constants)
        except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
            raise CaptureError(_depends_on_values(error)) from error
        except RuntimeError as error:
            if "custom_function_call" not in str(error) and "setup_context" not in str(error):
                raise
            raise CaptureError(
                f"an autograd.Function is called{where(error)}: its backward may differ from the derivative of its "
                f"forward, which a program would hold; write it in torch operators, or {EAGER}"
            ) from error
    return differentiable(_cleaned(traced))


def _traced(function: Callable[..., Tensor], inputs: list[Tensor], constants: bool) -> fx.GraphModule:
    return make_fx(
        functionalize(function, remove="mutations"),
        decomposition_table=decompositions(),
        tracing_mode="fake",
        _allow_non_fake_inputs=constants,
    )(*inputs)


def _changes_something(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


@contextmanager
def _outside() -> Iterator[None]:
    """Outside every transform and mode that the call may be under, and away from fused kernels."""
    with ExitStack() as stack:
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.enable_grad())  # the loss's own no_grad is then to be told from the caller's
        stack.enter_context(twice_differentiable())
        stack.enter_context(_without_onednn())  # fused LSTM
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # fused RNNs and batch norm
        stack.enter_context(_quiet())
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Fake tensors log an error of the loss's own, before it is raised."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _without_onednn() -> Iterator[None]:
    """``torch.backends.mkldnn.flags`` sets TF32 too, and warns about it."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operator as it is about to be recorded: refuses closed-over tensors, writes ``no_grad`` as ``detach``."""

    def __init__(self, constants: bool):
        super().__init__()  # type: ignore[no-untyped-call]
        self.constants = constants

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.constants and func not in _LIFTS:
            for value in tree.leaves((args, kwargs)):
                if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
                    raise CaptureError(_closed_over(value))
        if isinstance(kwargs.get("generator"), torch.Generator):
            raise CaptureError(
                f"{func} draws from a torch.Generator of the loss's own{here()}: a program cannot hold its state; "
                "pass the draw as an argument"
            )
        out = func(*args, **kwargs)
        if not torch.is_grad_enabled():
            out = tree.map(lambda t: t.detach() if isinstance(t, Tensor) else t, out)
        return out


class _Called(TorchFunctionMode):
    """What never becomes an operator: ``.data``, and values that leave torch."""

    def __init__(self, constants: bool):
        super().__init__()
        self.constants = constants

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__self__", None) is torch.Tensor.data:
            if func.__name__ == "__get__":
                return args[0].detach()
            raise CaptureError(f".data is assigned{here()}: a program has no such operation; use torch operators")
        if not self.constants and func in _LEAVES_TORCH:
            raise CaptureError(
                f"Tensor.{func.__name__} takes values out of torch{here()}: a program would keep them as they are now; "
                f"stay in torch operators, or {EAGER}"
            )
        return BY_FUNCTION.get(func, func)(*args, **(kwargs or {}))


def _cleaned(traced: fx.GraphModule) -> fx.GraphModule:
    """Dead code out, views as reshapes, and nothing left that changes an input."""
    graph = traced.graph
    for node in list(graph.nodes):
        if node.target in _FILLS and isinstance(node.args[0], fx.Node):
            _fill_a_tensor_of_its_own(node)
        if node.op == "call_function" and node.target is aten.copy_.default and node.args[0].op == "placeholder":
            raise CaptureError(
                f"the loss changes an argument in place ({node.args[1]}): it is no pure function; change a clone"
            )
        if _changes_something(node):
            raise CaptureError(f"{node.target} changes a tensor in place, which a program cannot; {EAGER}")
        node.target = RENAMED.get(node.target, node.target)
        if node.target is torch.ops.prims.convert_element_type.default:  # has no derivatives
            (x, dtype), node.target = node.args, aten._to_copy.default
            node.args, node.kwargs = (x,), {"dtype": dtype}
    graph.eliminate_dead_code()
    graph.lint()
    return traced


def _fill_a_tensor_of_its_own(draw: fx.Node) -> None:
    """Let a draw depend on no value, only on the shape and the strides that the trace saw: these order the draw."""
    like = draw.args[0]
    assert isinstance(like, fx.Node)
    val = like.meta["val"]
    with draw.graph.inserting_before(draw):
        empty = draw.graph.call_function(
            aten.empty_strided.default,
            (list(val.shape), list(val.stride())),
            {"dtype": val.dtype, "device": val.device},
        )
    empty.meta["val"] = val
    draw.args = (empty, *draw.args[1:])


def _closed_over(value: Tensor) -> str:
    return (
        f"the loss closes over a tensor of shape {tuple(value.shape)}, {value.dtype}{here()}: a program would keep "
        "answering for it after it was rebound; pass it as an argument of the loss, make it a buffer of the module, "
        "or say capture(..., constants=True)"
    )


def _depends_on_values(error: Exception) -> str:
    operator = getattr(error, "func", None) or error
    if operator is aten._local_scalar_dense.default:
        found = f"control flow or .item() on the value of a tensor{where(error)}"
    else:
        found = f"{operator}{where(error)} has an output whose shape depends on values, or no shape rule"
    return f"{found}: a program is the same for all values; use torch.where and masks, or {EAGER}"
