"""Operators of ``torch.ops``: what their schemas say, and how a program of them is compiled."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

from alpha_func.calls import Args, Function, Kwargs


def writes_in_place(operator: OpOverload) -> bool:
    """Whether an operator writes to an operand."""
    return bool(operator._schema.is_mutable)


def is_written(operator: OpOverload, args: Sequence[Tensor], kwargs: Kwargs) -> list[Any]:
    """The operands of a call that it writes to."""
    arguments = operator._schema.arguments
    given = [*zip(arguments, args, strict=False), *((a, kwargs[a.name]) for a in arguments if a.name in kwargs)]
    return [value for argument, value in given if argument.is_write]


@cache
def returning(operator: OpOverload) -> OpOverload | None:
    """The operator that returns what this one writes to its first operand; None where there is none."""
    name = operator._schema.name.partition("::")[2]
    packet = getattr(getattr(torch.ops, operator.namespace), name[:-1], None) if name.endswith("_") else None
    found = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    operands = _operands(operator)
    return next((each for each in found if not writes_in_place(each) and _operands(each) == operands), None)


def given_to(other: OpOverload, operator: OpOverload, args: Sequence[object]) -> tuple[object, ...]:
    """The operands by position of a call, for ``other`` of the same ones: it may have no default where this one has."""
    pairs = zip(operator._schema.arguments[len(args) :], other._schema.arguments[len(args) :], strict=True)
    return *args, *(own.default_value for own, its in pairs if not its.has_default_value())


def _operands(operator: OpOverload) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in operator._schema.arguments]


def out_argument(operator: OpOverload) -> str:
    """The name of the operand that takes the result."""
    return next(a.name for a in operator._schema.arguments if a.is_out)


def is_composite(operator: OpOverload) -> bool:
    """Whether an operator is composed of others that autograd sees."""
    return bool(operator.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


def composite_in_place(name: str, args: Args, kwargs: Kwargs) -> OpOverload | None:
    """The operator of this name that a call is of, where it writes in place and is composed of others."""
    packet = getattr(torch.ops.aten, name, None) if name.endswith("_") and not name.endswith("__") else None
    if packet is None:
        return None
    try:
        overload = torch._C._jit_resolve_packet(packet._qualified_op_name, *args, **kwargs)
    except RuntimeError:  # no overload takes these operands
        return None
    operator = getattr(packet, overload or "default")
    return operator if is_composite(operator) and writes_in_place(operator) else None


def decomposed(operator: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """A call of a composite, by the operators that it is composed of."""
    with torch._C.DisableTorchFunction():  # a mode would call the operator itself
        return operator.decompose(*args, **kwargs)


def allocates(operator: object) -> bool:
    """Whether an operator is a kernel of PyTorch's own whose schema says that its results share no memory. What is
    composed of others, or foreign, may (``wait_tensor``).
    """
    if not isinstance(operator, OpOverload) or operator.namespace != "aten":
        return False
    if is_composite(operator):
        return False
    return all(result.alias_info is None for result in operator._schema.returns)


def inductor_decompositions() -> dict[Any, Function]:
    """The compositions by which TorchInductor lowers operators."""
    import torch._inductor.lowering  # noqa: F401  a decomposition (of max_pool2d) takes it to be there
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def compiled_by_inductor(
    program: fx.GraphModule, inputs: Sequence[Tensor], mode: FakeTensorMode
) -> Callable[[list[Any]], Sequence[Tensor]]:
    """What runs a program in the operators of ``inductor_decompositions``, for inputs like these fake ones."""
    from torch._inductor.compile_fx import compile_fx_inner

    with torch._guards.tracing(torch._guards.TracingContext(mode)):
        return compile_fx_inner(program, inputs)


def registered(by_name: dict[str, Any]) -> dict[Any, Any]:
    """The same table by operator, of those that some package has registered."""
    found = [name.partition("::") for name in by_name if torch._C._dispatch_has_kernel(name)]
    return {getattr(getattr(torch.ops, room), name).default: by_name[f"{room}::{name}"] for room, _, name in found}
