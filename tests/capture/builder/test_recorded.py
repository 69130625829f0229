"""What a function of tensors is recorded as, and what is known of the results of calls."""

import torch
from torch import func

from alpha_func.capture.builder.builder import Builder
from alpha_func.capture.builder.recorded import recorded
from alpha_func.torch_private import FakeTensorMode

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
