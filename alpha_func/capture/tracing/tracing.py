"""A recorded loss, run once on tensors without data, as a graph of primitive operators.

Nothing is computed: fake tensors carry shapes, strides, dtypes and devices only. That makes a trace cost no memory, and
it is what shows control flow that depends on values (there are none).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func import torch_private, tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.rewrites import DIFFERENTIABLE, rewrite
from alpha_func.capture.rewrites.renamed import RENAMED
from alpha_func.capture.sweeps.inner_gradients import gradient, write_a_gradient
from alpha_func.capture.time_limit import require_time
from alpha_func.capture.tracing.collector import at_rest
from alpha_func.capture.tracing.lowering import decompositions
from alpha_func.capture.tracing.reads import BY_COUNT, COUNT
from alpha_func.capture.tracing.recording import the_loss
from alpha_func.capture.tracing.refusal import EAGER, line_of
from alpha_func.capture.tracing.writes import Composed, changes_something, write_nowhere
from alpha_func.errors import CaptureError
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.losses.module_loss import Watched
from alpha_func.torch_private import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    OpOverload,
    TorchDispatchMode,
    UnsupportedOperatorException,
)

aten = torch.ops.aten
_FILLS = {  # draws that take the shape of their first operand, and no value
    *(aten.bernoulli.p, aten.cauchy.default, aten.exponential.default, aten.geometric.default, aten.log_normal.default),
    *(aten.normal_functional.default, aten.rand_like.default, aten.randn_like.default, aten.uniform.default),
    *(aten.randint_like.default, aten.randint_like.low_dtype),
}

_ASSERTIONS = {aten._assert_async.default, aten._assert_async.msg, aten._assert_scalar.default}


def trace(recording: fx.GraphModule, like: list[Tensor], order: list[int]) -> fx.GraphModule:
    """A recorded loss in primitive operators, for tensors of the shapes, strides, dtypes and devices of ``like``.

    Every operator in it is functional; ``aten.detach`` stands where the loss stops derivatives (``detach``, ``.data``,
    ``torch.no_grad``).

    Args:
        recording: a graph of torch calls, as TorchDynamo gives it.
        like: what the program will be called with.
        order: which of those each input of the recording is.

    Raises:
        CaptureError: the loss cannot be written as such a graph.
    """

    def function(*tensors: Tensor) -> Tensor:
        before = torch.default_generator.get_state()
        value = _Lowered(recording).loss(*[tensors[i] for i in order])
        if not torch.equal(before, torch.default_generator.get_state()):
            torch.default_generator.set_state(before)
            raise CaptureError(
                "the loss seeds the global RNG itself, which cannot be captured: leave that to "
                "functional_loss(module, criterion, seed=...)"
            )
        return value

    depth, level = torch_private.transform_depth(), torch_private.forward_level()
    with _outside(), at_rest():
        with FakeTensorMode():
            inputs = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in like]
        try:
            if any(map(torch_private.levels_opened, recording.graph.nodes)):
                # It counts its levels of torch.func from the first: functionalize would be one around them.
                traced = _functional(_in_operators(function, inputs), inputs)
            else:
                traced = _functional(function, inputs)
            write_nowhere(traced.graph)
            if any(changes_something(node) for node in traced.graph.nodes):
                # Composites that functionalize does not see into, RNNs for one, write in place within themselves.
                traced = _functional(traced, inputs)
            program = rewrite(_cleaned(traced), DIFFERENTIABLE)
            while write_a_gradient(program):
                program = rewrite(_cleaned(_functional(program, inputs)), DIFFERENTIABLE)
        except Exception:
            torch_private.close_levels(depth, level)
            raise
    return program


class _Lowered(fx.Interpreter):
    """A recording run call by call, as the operators that its calls are; what is refused is refused with its line."""

    def __init__(self, recording: fx.GraphModule):
        super().__init__(recording)
        self.extra_traceback = False
        self._dispatched = _Dispatched()  # type: ignore[no-untyped-call]
        self._levels = 0  # of torch.func, whose own gradients are run

    def loss(self, *inputs: Tensor) -> Tensor:
        """The value of the loss."""
        with self._dispatched, Composed(), Watched():
            self.run(*inputs)
        return self._loss

    def run_node(self, n: fx.Node) -> Any:
        """The result of one call."""
        require_time()
        try:
            if torch_private.drops_a_backward(n):
                raise CaptureError(_AUTOGRAD_FUNCTION)
            self._levels += torch_private.levels_opened(n)
            self._dispatched.count = n.meta.get(COUNT)
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if n.target is torch.autograd.grad and not self._levels:
                if any(map(torch_private.registers_a_hook, n.graph.nodes)):
                    raise CaptureError(_HOOK)
                return gradient(*args, **kwargs)
            if torch_private.sets_requires_grad(n) and not self._levels:  # which tensors do, no operator sees
                return args[0]
            result = super().run_node(n)
        except CaptureError as error:
            raise CaptureError(f"{error} ({line_of(n).strip()})") from error
        except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
            raise CaptureError(_depends_on_values(error, line_of(n))) from error
        if n.target is the_loss:
            (self._loss,) = args
        # ``.data`` is a detach to derivatives, which its own call is not to make_fx.
        return result.detach() if torch_private.reads_data(n) else result


def _functional(function: Callable[..., Tensor], inputs: list[Tensor]) -> fx.GraphModule:
    return _in_operators(functionalize(function, remove="mutations"), inputs)


def _in_operators(function: Callable[..., Tensor], inputs: list[Tensor]) -> fx.GraphModule:
    return make_fx(function, decomposition_table=decompositions(), tracing_mode="fake")(*inputs)


@contextmanager
def _outside() -> Iterator[None]:
    """Outside every transform and mode that the call may be under, and away from fused kernels."""
    with ExitStack() as stack:
        stack.enter_context(torch_private.temporarily_clear_interpreter_stack())
        stack.enter_context(torch_private.modes_disabled())
        stack.enter_context(torch_private.saved_tensors_hooks_allowed())
        stack.enter_context(torch_private.printed_by_type())
        stack.enter_context(torch.enable_grad())
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
    before = torch_private.get_mkldnn_enabled()
    torch_private.set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch_private.set_mkldnn_enabled(before)


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operator as it is about to be recorded: writes ``no_grad`` as ``detach``.

    Attributes:
        count: how many places of the masks of this call are true, where it takes entries by masks.
    """

    count: int | None = None

    def __torch_dispatch__(self, func: OpOverload, types: object, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(kwargs.get("generator"), torch.Generator):
            raise CaptureError(
                f"{func} draws from a torch.Generator of the loss's own: a program cannot hold its state; "
                "pass the random tensor as an argument"
            )
        if func in _ASSERTIONS:
            raise CaptureError(
                f"{func} only checks values, and a captured program would drop it: leave it out, or {EAGER}"
            )
        by_count = BY_COUNT.get(func) if self.count is not None else None
        out = func(*args, **kwargs) if by_count is None else by_count(self.count, *args)
        if not torch.is_grad_enabled():
            out = tree.map(lambda t: t.detach() if isinstance(t, Tensor) else t, out)
        return out


def _cleaned(traced: fx.GraphModule) -> fx.GraphModule:
    """Dead code out, views as reshapes, and nothing left that changes an input."""
    graph = traced.graph
    for node in list(graph.nodes):
        if node.target in _FILLS and isinstance(node.args[0], fx.Node):
            _fill_a_tensor_of_its_own(node)
        if node.op == "call_function" and node.target is aten.copy_.default and node.args[0].op == "placeholder":
            raise CaptureError(
                f"the loss changes an argument in place ({node.args[1]}): it is not a pure function; change a clone"
            )
        if changes_something(node):
            raise CaptureError(f"{node.target} changes a tensor in place, which cannot be captured; {EAGER}")
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


_AUTOGRAD_FUNCTION = (
    "an autograd.Function is called, and a captured program would differentiate its forward, which its backward may "
    f"not match; if it does, pass capture(..., trust=[the function]); if not, write it in torch operators, or {EAGER}"
)

_HOOK = (
    "the loss registers a hook on a gradient (Tensor.register_hook) and takes a gradient inside: the hook may change "
    "that gradient, and a captured program would not; change what torch.autograd.grad returns instead"
)


def _depends_on_values(error: Exception, line: str) -> str:
    operator = getattr(error, "func", None) or error
    if operator is aten._local_scalar_dense.default:
        found = f"control flow or .item() on the value of a tensor{line}"
    else:
        found = f"{operator}{line} has an output whose shape depends on values, or no shape rule"
    return f"{found}: a captured program must be the same for all values; use torch.where and masks, or {EAGER}"
