"""What TorchDynamo does otherwise where a loss reads values that decide how its program is written (``reads``).

Each is a method of Dynamo's, and ours in terms of that, as in ``otherwise``.
"""

import operator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx

from alpha_func import torch_private, tree
from alpha_func.calls import Function, Kwargs
from alpha_func.capture.tracing import packed, reads
from alpha_func.capture.tracing.reads import read_of


def _numbers_are_read(as_symbols: Function) -> Function:
    """The whole number, or list of numbers, that a tensor holds, as it is in this call."""
    from torch._dynamo.variables.base import VariableTracker

    def numbers(self: Any, tx: Any, *args: object, **kwargs: object) -> Any:
        node = self.as_proxy().node
        whole = not (node.meta["example_value"].is_floating_point() or node.meta["example_value"].is_complex())
        read = read_of(node) if whole and not args and not kwargs else None
        if read is None:
            return as_symbols(self, tx, *args, **kwargs)
        _keep(read)
        return VariableTracker.build(tx, getattr(read.value, as_symbols.__name__.removeprefix("method_"))())

    return numbers


def _branches_are_read(step: Function) -> Function:
    """Take the branch that the one number of a tensor decides in this call."""
    from torch._dynamo.variables.base import VariableTracker

    def one_step(self: Any) -> object:
        at = self.instruction_pointer
        if at is not None and self.instructions[at].opname.startswith("POP_JUMP") and self.stack[-1].is_tensor():
            node = self.stack[-1].as_proxy().node
            read = read_of(node, _truth) if node.meta["example_value"].numel() == 1 else None
            if read is not None:
                _keep(read)
                self.stack[-1] = VariableTracker.build(self, bool(read.value))
        return step(self)

    return one_step


def _ranges_are_read(call_range: Function) -> Function:
    """The numbers of a range that is given tensors for them."""

    def numbers(self: Any, tx: Any, *args: Any) -> Any:
        return call_range(
            self, tx, *(each.call_method(tx, "item", [], {}) if each.is_tensor() else each for each in args)
        )

    return numbers


def _masks_are_counted(get_fake_value: Function) -> Function:
    """The shape that entries taken by a mask have in this call."""
    from torch._dynamo.utils import run_node

    def found(node: fx.Node, tx: Any, *args: object, **kwargs: object) -> Any:
        masks = reads.masks_of(node) if "example_value" not in node.meta else []
        counts = [read_of(mask, torch.count_nonzero) for mask in masks]
        counted = [read for read in counts if read is not None]
        if not masks or len(counted) < len(counts):
            return get_fake_value(node, tx, *args, **kwargs)
        count = int(counted[0].value)
        like = torch.fx.map_arg((node.args, node.kwargs), lambda n: _with_places(n, count if n in masks else None))
        with torch.no_grad(), torch_private.modes_disabled():
            shapes = run_node(tx.output, node, *like, None)
        _keep(*counted)
        node.meta[reads.COUNT] = count
        with_grad = torch.is_grad_enabled() and any(n.meta["example_value"].requires_grad for n in node.all_input_nodes)
        with tx.fake_mode:
            return tree.map(lambda like: _entries(like, with_grad), shapes)

    return found


def _places_need_no_reading(get_fake_value: Function) -> Function:
    """Record ``x[i]``, i a whole number in a tensor, as a look-up: one program for all i."""

    def found(node: fx.Node, *args: object, **kwargs: object) -> Any:
        if node.target is operator.getitem and "example_value" not in node.meta and reads.is_place(node):
            node.target = reads.at
        return get_fake_value(node, *args, **kwargs)

    return found


def _numbers_may_be_tensors(get_fake_value: Function) -> Function:
    """Record a number where a call is given a tensor for one: a size, the end of a slice, a place."""
    from torch._subclasses.fake_impls import op_implementations_dict

    of_tensor = torch.ops.aten._local_scalar_dense.default
    as_symbol = op_implementations_dict[of_tensor]

    def found(node: fx.Node, *args: object, **kwargs: object) -> Any:
        numbers: dict[Any, reads.Read] = {}

        def number(mode: Any, operator: Any, tensor: Tensor) -> Any:
            whole = not (tensor.is_floating_point() or tensor.is_complex())
            for taken in node.all_input_nodes if whole else ():
                if taken.meta.get("example_value") is tensor:
                    read = numbers.get(taken) or read_of(taken)
                    if read is not None:
                        numbers[taken] = read
                        return read.value.item()
            return as_symbol(mode, operator, tensor)

        with patch.dict(op_implementations_dict, {of_tensor: number}):
            value = get_fake_value(node, *args, **kwargs)
        _keep(*numbers.values())
        known = {taken: read.value.item() for taken, read in numbers.items()}
        node.args, node.kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: known.get(n, n))
        return value

    return found


def _packed_in_steps(call_function: Function) -> Function:
    """Record what takes how many rows of a packed sequence there are as what reads it."""
    from torch._dynamo.variables.base import VariableTracker
    from torch._dynamo.variables.lists import BaseListVariable

    for each in packed.CALLS:
        torch_private.allowed_in_graph(each)

    def call(self: Any, tx: Any, args: list[Any], kwargs: Kwargs) -> Any:
        ours = packed.INSTEAD.get(self.value)
        if self.value in packed.KERNELS and len(args) > 3 and isinstance(args[3], BaseListVariable):  # the weights
            ours, args = packed.recurrent, [VariableTracker.build(tx, self.value.__name__), *args]
        if ours is None:
            return call_function(self, tx, args, kwargs)
        return VariableTracker.build(tx, ours).call_function(tx, args, kwargs)

    return call


def _keep(*found: reads.Read) -> None:
    """Have reads made anew at every call; one without inputs is a constant."""
    torch_private.reads_of_this_graph().extend(read for read in found if read.sources)


def _truth(value: Tensor) -> Tensor:
    return value != 0


def _with_places(node: fx.Node, count: int | None) -> Tensor:
    """A tensor like the value of a node, with so many places that are not zero."""
    value = node.meta["example_value"]
    zero = torch.zeros((), dtype=value.dtype, device=value.device).expand(value.shape)
    if count is None:
        return zero
    return (torch.arange(zero.numel(), device=value.device) < count).reshape(value.shape).to(value.dtype)


def _entries(like: Tensor, with_grad: bool) -> Tensor:
    entries = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    return entries.requires_grad_(with_grad and like.is_floating_point())


READING: list[tuple[str, str, Function]] = [
    ("symbolic_convert.InstructionTranslatorBase", "step", _branches_are_read),
    ("variables.builder", "get_fake_value", _masks_are_counted),
    ("variables.builder", "get_fake_value", _numbers_may_be_tensors),
    ("variables.builder", "get_fake_value", _places_need_no_reading),
    ("variables.builtin.BuiltinVariable", "call_range", _ranges_are_read),
    ("variables.tensor.TensorVariable", "method_item", _numbers_are_read),
    ("variables.tensor.TensorVariable", "method_tolist", _numbers_are_read),
    ("variables.torch.TorchInGraphFunctionVariable", "call_function", _packed_in_steps),
]
