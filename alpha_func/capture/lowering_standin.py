"""A loss lowered to primitive operators: a stand-in for ``program``, so that the sweeps can be built and tested."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, func, fx
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._decomp.decompositions import native_batch_norm_helper
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func.kernels import twice_differentiable

aten = torch.ops.aten

# Operators that have a law of their own in the sweeps, or derivatives in PyTorch that are right to second order: one
# kernel is faster than the several that it would be lowered to.
KEPT = (
    aten.detach,  # PyTorch's table lowers it to alias, and a stopped gradient would flow
    aten.addmm,
    aten._softmax,
    aten._safe_softmax,
    aten._log_softmax,
    aten.gelu,
    aten.silu,
    aten.nll_loss_forward,
    aten.nll_loss2d_forward,
    aten.leaky_relu,
    aten.softplus,
    aten.bernoulli,
    aten.max_pool2d_with_indices,
    aten.index_select,
    aten.masked_fill,
    aten.threshold_backward,
    aten.stack,
    aten.unbind,
)
LOWERED = (
    aten.mse_loss,
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    aten.native_layer_norm,
    aten.native_group_norm,
    aten.huber_loss,
    aten.smooth_l1_loss,
    aten.glu,
    aten._weight_norm_interface,
    aten.lstm,
    aten.gru,
    aten.rnn_tanh,
    aten.rnn_relu,
    aten.binary_cross_entropy,
    aten.binary_cross_entropy_with_logits,
    aten.addcmul,
    aten.addcdiv,
    aten.baddbmm,
)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Composite operators to primitives, products and a few fused kernels kept."""
    table = {**core_aten_decompositions(), **get_decompositions(LOWERED)}
    table[aten.native_batch_norm.default] = _batch_norm  # theirs writes the running statistics in place
    return {target: rule for target, rule in table.items() if getattr(target, "overloadpacket", target) not in KEPT}


def _batch_norm(*args: Any) -> Any:
    return native_batch_norm_helper(*args, True)[:3]  # type: ignore[call-arg]


@contextmanager
def _without_fused_recurrences() -> Iterator[None]:
    """oneDNN's LSTM is one operator without a second derivative; ``backends.mkldnn.flags`` warns about TF32."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def lower(loss: Callable[..., Tensor], inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The program of ``loss(*inputs)``, a scalar, in primitive operators, traced on fake tensors."""
    functional = func.functionalize(loss)
    with twice_differentiable(), _without_fused_recurrences(), torch.no_grad():
        program = make_fx(
            functional, decomposition_table=decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True
        )(*inputs)
        return _without_writes(program, inputs)


def _without_writes(program: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The program without operators that write in place.

    Some decompositions write, and so do updates of buffers that were closed over. With the constants as inputs, these
    are functional too; the constants are put back at the end.
    """
    names = list(dict.fromkeys(str(node.target) for node in program.graph.find_nodes(op="get_attr")))

    class Lifted(fx.Interpreter):
        """The program, its constants read from ``held``."""

        held: dict[Any, Tensor]

        def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
            return self.held[target]

    def lifted(*operands: Tensor) -> Any:
        interpreter = Lifted(program)
        interpreter.held = dict(zip(names, operands[len(inputs) :], strict=True))
        return interpreter.run(*operands[: len(inputs)])

    constants = [getattr(program, name) for name in names]
    pure = make_fx(func.functionalize(lifted), tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs, *constants)
    for name, tensor, node in zip(
        names, constants, pure.graph.find_nodes(op="placeholder")[len(inputs) :], strict=True
    ):
        pure.register_buffer(name, tensor)
        with pure.graph.inserting_before(node):
            node.replace_all_uses_with(pure.graph.get_attr(name))
        pure.graph.erase_node(node)
    copies = [node for node in pure.graph.nodes if node.target is aten.copy_.default]  # back into the constants
    for node in copies:
        if not node.users:
            pure.graph.erase_node(node)
    pure.graph.eliminate_dead_code()
    pure.recompile()
    return pure
