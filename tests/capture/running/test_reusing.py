"""Programs that write into used memory: the same numbers, and nothing written over that is needed."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from alpha_func.capture.builder.builder import Builder, finished
from alpha_func.capture.running.reusing import memory_of, reuse

aten = torch.ops.aten
LARGE = torch.arange(2**14, dtype=torch.float64).reshape(128, 128) / 2**14


def written(make, *like):
    """A program of calls, written as they are: ``make(builder, *inputs)`` returns its outputs."""
    b = Builder({}, FakeTensorMode())
    inputs = [b.placeholder(f"x{i}", b.as_fake(x)) for i, x in enumerate(like)]
    return finished(b, make(b, *inputs))


def in_place(program):
    """The operators that are told where to write."""
    return [str(n.target) for n in program.graph.nodes if {"out", "grad_input"} & n.kwargs.keys()]


def run(program, *inputs):
    with torch.no_grad():
        return program(*inputs)


def test_a_chain_of_operators_uses_the_memory_of_its_first():
    program = reuse(
        written(
            lambda b, x: [b.call(aten.mul.Tensor, b.call(aten.tanh.default, b.call(aten.exp.default, x)), 3)], LARGE
        )
    )
    assert in_place(program) == ["aten.tanh.out", "aten.mul.out"]
    torch.testing.assert_close(run(program, LARGE)[0], LARGE.exp().tanh() * 3, rtol=0, atol=0)


def test_what_is_needed_later_is_not_written_over():
    def make(b, x):
        y = b.call(aten.exp.default, x)
        z = b.call(aten.mul.Tensor, y, 2)
        return [b.call(aten.add.Tensor, y, z)]

    program = reuse(written(make, LARGE))
    assert in_place(program) == ["aten.add.out"]
    torch.testing.assert_close(run(program, LARGE)[0], LARGE.exp() * 3)


@pytest.mark.parametrize("target", [aten.mul.Tensor, aten.add.Tensor])
def test_inputs_and_outputs_are_left_alone(target):
    def make(b, x):
        y = b.call(aten.exp.default, x)
        return [y, b.call(target, y, y), b.call(target, x, x)]

    program, x = reuse(written(make, LARGE)), LARGE.clone()
    y, two, own = run(program, x)
    assert torch.equal(x, LARGE)
    assert torch.equal(y, LARGE.exp())
    assert torch.equal(two, target(y, y))
    assert torch.equal(own, target(x, x))


def test_a_view_of_an_operand_keeps_its_memory():
    def make(b, x):
        y = b.call(aten.exp.default, x)
        return [b.call(aten.add.Tensor, y, b.call(aten.permute.default, y, [1, 0]))]

    program = reuse(written(make, LARGE))
    assert in_place(program) == []
    torch.testing.assert_close(run(program, LARGE)[0], LARGE.exp() + LARGE.exp().T, rtol=0, atol=0)


def test_a_view_that_is_used_later_keeps_its_memory():
    def make(b, x):
        y = b.call(aten.exp.default, x)
        view = b.call(aten.permute.default, y, [1, 0])
        z = b.call(aten.mul.Tensor, y, 2)
        return [z, b.call(aten.mul.Tensor, view, 3)]

    z, w = run(reuse(written(make, LARGE)), LARGE)
    torch.testing.assert_close(z, LARGE.exp() * 2, rtol=0, atol=0)
    torch.testing.assert_close(w, LARGE.exp().T * 3, rtol=0, atol=0)


def test_a_product_is_not_written_over_its_factors():
    def make(b, x):
        y = b.call(aten.exp.default, x)
        return [b.call(aten.addmm.default, y, x, y), b.call(aten.sum.default, b.call(aten.mm.default, x, x))]

    total, square = run(reuse(written(make, LARGE)), LARGE)
    torch.testing.assert_close(total, torch.addmm(LARGE.exp(), LARGE, LARGE.exp()))
    torch.testing.assert_close(square, (LARGE @ LARGE).sum())


def test_a_product_is_added_in_place_and_written_into_what_is_free():
    def make(b, x):
        y = b.call(aten.exp.default, x)
        a = b.call(aten.addmm.default, y, x, x)
        return [b.call(aten.sum.default, a), b.call(aten.mm.default, x, x)]

    program = reuse(written(make, LARGE))
    assert in_place(program) == ["aten.addmm.out", "aten.mm.out"]
    total, square = run(program, LARGE)
    torch.testing.assert_close(total, torch.addmm(LARGE.exp(), LARGE, LARGE).sum())
    torch.testing.assert_close(square, LARGE @ LARGE)


def test_small_tensors_are_made_anew():
    x = torch.ones(3)
    program = reuse(written(lambda b, x: [b.call(aten.tanh.default, b.call(aten.exp.default, x))], x))
    assert in_place(program) == []


def test_memory_that_a_foreign_operator_may_return_is_not_written_over():
    wait = torch.ops._c10d_functional.wait_tensor.default  # returns its operand; its schema and its trace say a new one

    def make(b, x):
        y = b.call(aten.exp.default, x)
        same = b.call(wait, y)
        return [b.call(aten.mul.Tensor, x, 2), b.call(aten.sum.default, same), b.call(aten.mul.Tensor, same, 3)]

    program = reuse(written(make, LARGE))
    assert in_place(program) == []
    _, total, triple = run(program, LARGE)
    assert torch.equal(total, LARGE.exp().sum())
    assert torch.equal(triple, LARGE.exp() * 3)


# Some return their operand: by their schema, by their trace, or by neither.
CALLS = {
    "_conj_physical": (aten._conj_physical.default, torch.complex(LARGE, LARGE)),
    "_to_copy": (aten._to_copy.default, LARGE),
    "_unsafe_view": (aten._unsafe_view.default, LARGE, [-1]),
    "abs": (aten.abs.default, LARGE),
    "clone": (aten.clone.default, LARGE),
    "conj_physical": (aten.conj_physical.default, LARGE),
    "pad": (aten.constant_pad_nd.default, LARGE, [0, 0]),
    "repeat": (aten.repeat.default, LARGE, [1, 1]),
    "reshape": (aten.reshape.default, LARGE, [-1]),
    "roll": (aten.roll.default, LARGE, [0], [0]),
    "rot90": (aten.rot90.default, LARGE, 0),
    "round": (aten.round.default, LARGE.long()),
    "unsafe_split": (aten.unsafe_split.Tensor, LARGE, 64),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_taken_for_new_memory_is_new(name):
    target, x, *rest = CALLS[name]
    program = written(lambda b, x: b.call(target, x, *rest), x)
    *nodes, call, _ = program.graph.nodes
    found = run(program, x)
    storages = {t.untyped_storage().data_ptr() for t in (found if isinstance(found, (list, tuple)) else [found])}
    assert x.untyped_storage().data_ptr() not in storages or memory_of([*nodes, call])[call] != {call}
