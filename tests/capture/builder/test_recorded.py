"""What a function of tensors is recorded as, and what is known of the results of calls."""

import pytest
import torch
from torch import func

from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.recorded import recorded
from alpha_func.capture.derivatives.rule import RULES
from alpha_func.torch_private import FakeTensorMode, pytree
from tests.helpers.operands import is_of_two

aten = torch.ops.aten


def of(function, *shapes):
    mode = FakeTensorMode()
    with mode:
        inputs = [torch.empty(shape) for shape in shapes]
    return recorded(function, inputs, mode), inputs, mode


def targets(function, *shapes):
    return [call.target for call in of(function, *shapes)[0].calls]


def test_calls_that_no_output_needs_are_left_out():
    assert targets(lambda x: [x.sin(), x.exp().cos()][0], (3,)) == [aten.sin.default]


def test_writes_in_place_are_recorded_as_calls_that_write_nowhere():
    assert targets(lambda x: x.sin().mul_(x), (3,)) == [aten.sin.default, aten.mul.Tensor]


def test_a_composite_is_recorded_as_the_operators_that_it_is_made_of():
    assert targets(lambda x: torch.ops.aten.square.default(x), (3,)) == [aten.pow.Tensor_Scalar]


def test_a_recorded_derivative_is_written_into_any_program():
    found, *_ = of(lambda x, t: func.jvp(torch.tanh, (x,), (t,))[1], (3,), (3,))
    mode = FakeTensorMode()
    b = Builder({}, mode)
    with mode:
        operands = [b.placeholder(name, torch.empty(3)) for name in ("x", "t")]
    b.graph.output(b.inline(found, operands))
    program = torch.fx.GraphModule({}, b.graph)
    x, t = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, -1.0, 2.0])
    torch.testing.assert_close(program(x, t), (1 - x.tanh() ** 2) * t)


def test_one_of_several_outputs_is_recorded_by_its_place():
    found, *_ = of(lambda x: x.max(0).indices, (3,))
    assert (found.outputs.call, found.outputs.output) == (0, 1)


def test_the_result_of_a_view_lies_in_the_memory_of_its_own_operand():
    b = Builder({}, FakeTensorMode())
    with b.mode:
        x, y = (b.placeholder(name, torch.empty(2, 3)) for name in "xy")
    views = [b.write(aten.transpose.int, node, 0, 1) for node in (x, y)]
    memory = [node.meta["val"].untyped_storage()._cdata for node in (x, y, *views)]
    assert memory[:2] == memory[2:]


def test_results_of_equal_calls_lie_apart():
    b = Builder({}, FakeTensorMode())
    with b.mode:
        x, y = (b.placeholder(name, torch.empty(2, 3)) for name in "xy")
    one, other = (b.write(aten.sin.default, node).meta["val"] for node in (x, y))
    assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    assert one.untyped_storage()._cdata != other.untyped_storage()._cdata


def described(val, operands):
    """All of a fake result that a program may be written by: of its memory, whose it is."""
    if isinstance(val, (list, tuple)):
        return [described(part, operands) for part in val]
    if not isinstance(val, torch.Tensor):
        return val
    shared = [i for i, x in enumerate(operands) if x.untyped_storage()._cdata == val.untyped_storage()._cdata]
    return val.shape, val.stride(), val.storage_offset(), val.dtype, val.device, val.is_complex(), shared


@pytest.mark.parametrize("kind", ["contiguous", "transposed", "sliced", "expanded", "empty", "complex"])
def test_a_result_made_again_is_that_of_the_dispatch(kind):
    b = Builder({}, FakeTensorMode())
    with b.mode:
        plain = torch.empty(4, 4, dtype=torch.complex64 if kind == "complex" else torch.float32)
        like = {"transposed": plain.t(), "sliced": plain[1:, 2:], "expanded": plain[:, :1].expand(4, 3)}
        operand = {**like, "empty": plain[:0]}.get(kind, plain)
    calls = {
        aten.reshape.default: ([-1],), aten.permute.default: ([1, 0],), aten.expand.default: ([2, -1, -1],),
        aten.select.int: (1, -1), aten.slice.Tensor: (1, 1), aten.contiguous.default: (), aten.detach.default: (),
        aten.split.Tensor: (2,), aten.unbind.int: (), aten.squeeze.default: (), aten.as_strided.default: ([2], [1], 1),
        aten._to_copy.default: (), aten.clone.default: (), aten.mul.Tensor: (2,), aten.sum.dim_IntList: ([0],),
        aten.sort.default: (), aten.diagonal.default: (), aten.view_as_real.default: (), aten.resolve_conj.default: (),
    }  # fmt: skip
    for target, rest in calls.items():
        node = b.placeholder("x", operand)
        try:
            with b.mode:
                expected = target(operand, *rest)
        except (RuntimeError, IndexError):  # no such call of this kind
            continue
        for _ in range(2):  # asked, and made again
            found = b.fake_result(target, (node, *rest), {})
            assert described(found, [operand]) == described(expected, [operand]), target


@pytest.mark.parametrize("case", [rule.case for rule in RULES.values()])
def test_the_results_in_a_program_are_those_of_running_it(case):
    mode = FakeTensorMode()
    with mode:
        inputs = [torch.empty(2, 3) for _ in range(1 + is_of_two(case))]
    for _ in range(2):
        b = Builder({}, mode)
        found = b.inline(recorded(case, inputs, mode), [b.placeholder("x", x) for x in inputs])
        with mode:
            expected = pytree.tree_leaves(case(*inputs))
        for node, val in zip(pytree.tree_leaves(found), expected, strict=True):
            assert described(node.meta["val"], inputs) == described(val, inputs)
