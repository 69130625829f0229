"""Every law against the call that it rewrites, over dtypes and kinds of operands: value, dtype and shape."""

import random

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from alpha_func.capture.builder.builder import Builder, finished
from alpha_func.capture.rewrites import LAWS

aten = torch.ops.aten
SHAPE = (2, 3)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.int64, torch.uint8, torch.bool)

# An operand made of a tensor of SHAPE by calls; a number stands for itself.
KINDS = {
    "tensor": lambda call, x: x,
    "zeros": lambda call, x: call(aten.zeros_like.default, x),
    "ones": lambda call, x: call(aten.ones_like.default, x),
    "filled": lambda call, x: call(aten.full_like.default, x, 3),
    "filled row": lambda call, x: call(aten.new_full.default, x, [3], 2),
    "0-d": lambda call, x: call(aten.select.int, call(aten.select.int, x, 0, 1), 0, 1),
    "row": lambda call, x: call(aten.select.int, x, 0, 1),
    "column": lambda call, x: call(aten.slice.Tensor, x, 1, 0, 1),
    "expanded": lambda call, x: call(aten.expand.default, call(aten.slice.Tensor, x, 1, 0, 1), list(SHAPE)),
    "multiple": lambda call, x: call(aten.mul.Tensor, x, 3),
    "half": lambda call, x: call(aten.mul.Tensor, x, 0.5),
    "sum": lambda call, x: call(aten.add.Tensor, x, x),
    "integer": lambda call, x: 2,
    "number": lambda call, x: -1.0,
    "zero": lambda call, x: 0,
    "i": lambda call, x: 1j,
}

NUMBERS = ("integer", "number", "zero", "i")


def values(dtype):
    return torch.tensor([[1, 0, 5], [2, 200, 3]]).to(dtype)


def eager(target, *args, **kwargs):
    return target(*args, **kwargs)


def disagreements(calls):
    """The calls (name, function of ``call`` and a dtype to its tensor) whose simplified result is another one."""
    b = Builder(LAWS, FakeTensorMode())
    inputs = {dtype: values(dtype) for dtype in DTYPES}
    nodes = {dtype: b.placeholder(f"x{i}", b.as_fake(x)) for i, (dtype, x) in enumerate(inputs.items())}
    names, written, expected = [], [], []
    for name, function in calls:
        try:
            expected.append(function(eager, inputs))
        except (RuntimeError, IndexError):  # torch has no such call
            continue
        names.append(name)
        written.append(function(b.call, nodes))
    found = finished(b, written)(*inputs.values())
    assert len(found) == len(names) > 10
    return [name for name, x, y in zip(names, found, expected, strict=True) if not same(x, y)]


def same(x, y):
    if not (isinstance(x, torch.Tensor) and x.dtype == y.dtype and x.shape == y.shape):
        return False
    y = torch.where(y.isnan() & (x == 0), x, y)  # a symbolic zero is one times and over anything
    return torch.allclose(x, y, rtol=1e-6, atol=0, equal_nan=True)


BINARY = {
    "add": lambda call, x, y: call(aten.add.Tensor, x, y),
    "add alpha": lambda call, x, y: call(aten.add.Tensor, x, y, alpha=3),
    "sub": lambda call, x, y: call(aten.sub.Tensor, x, y),
    "rsub": lambda call, x, y: call(aten.rsub.Tensor, x, y),
    "mul": lambda call, x, y: call(aten.mul.Tensor, x, y),
    "div": lambda call, x, y: call(aten.div.Tensor, x, y),
    "x - y + y": lambda call, x, y: call(aten.add.Tensor, call(aten.sub.Tensor, x, y), y),
    "(x·y)·2": lambda call, x, y: call(aten.mul.Tensor, call(aten.mul.Tensor, x, y), 2),
}


@pytest.mark.parametrize("name", BINARY)
def test_law_of_two_operands_keeps_value_dtype_and_shape_of(name):
    choose = random.Random(name)
    tensors = [kind for kind in KINDS if kind not in NUMBERS]

    def drawn():
        kinds = (choose.choice(tensors), choose.choice(list(KINDS)))
        dtypes = (choose.choice(DTYPES), choose.choice(DTYPES))

        def function(call, inputs):
            x, y = (KINDS[kind](call, inputs[dtype]) for kind, dtype in zip(kinds, dtypes, strict=True))
            return BINARY[name](call, x, y)

        return (*kinds, *dtypes), function

    assert disagreements(drawn() for _ in range(300)) == []


UNARY = {
    "neg": lambda call, x: call(aten.neg.default, x),
    "conj": lambda call, x: call(aten._conj_physical.default, call(aten._conj_physical.default, x)),
    "x^0": lambda call, x: call(aten.pow.Tensor_Scalar, x, 0),
    "x^1": lambda call, x: call(aten.pow.Tensor_Scalar, x, 1),
    "x^2": lambda call, x: call(aten.pow.Tensor_Scalar, x, 2),
    "x^2.": lambda call, x: call(aten.pow.Tensor_Scalar, x, 2.0),
    "x^.5": lambda call, x: call(aten.pow.Tensor_Scalar, x, 0.5),
    "x^3": lambda call, x: call(aten.pow.Tensor_Scalar, x, 3),
    "1 - x": lambda call, x: call(aten.rsub.Scalar, x, 1),
    "1. - x": lambda call, x: call(aten.rsub.Scalar, x, 1.0),
    "2 - x·3": lambda call, x: call(aten.rsub.Scalar, x, 2, 3),
    "sum": lambda call, x: call(aten.sum.default, x),
    "sum of the last": lambda call, x: call(aten.sum.dim_IntList, x, [-1]),
    "sum, kept": lambda call, x: call(aten.sum.dim_IntList, x, [-1], True),
    "mean": lambda call, x: call(aten.mean.dim, x, [0]),
    "to float64": lambda call, x: call(aten._to_copy.default, x, dtype=torch.float64),
    "to bool": lambda call, x: call(aten._to_copy.default, x, dtype=torch.bool),
    "clone": lambda call, x: call(aten.clone.default, x),
    "unsqueeze": lambda call, x: call(aten.unsqueeze.default, x, 0),
    "squeeze": lambda call, x: call(aten.squeeze.default, x),
    "reshape": lambda call, x: call(aten.reshape.default, x, [-1]),
    "expand": lambda call, x: call(aten.expand.default, x, [4, 2, 3]),
    "exp": lambda call, x: call(aten.exp.default, x),
    "sigmoid": lambda call, x: call(aten.sigmoid.default, x),
    "sgn": lambda call, x: call(aten.sgn.default, x),
    "greater": lambda call, x: call(aten.gt.Scalar, x, 0.5),
    "where": lambda call, x: call(aten.where.self, call(aten.gt.Scalar, x, 1), x, call(aten.neg.default, x)),
    "cumsum": lambda call, x: call(aten.cumsum.default, x, -1),
    "select": lambda call, x: call(aten.select.int, x, 0, 0),
    "index": lambda call, x: call(aten.index.Tensor, x, [call(aten.full.default, [2], 0, dtype=torch.int64)]),
}


@pytest.mark.parametrize("name", UNARY)
def test_law_of_one_operand_keeps_value_dtype_and_shape_of(name):
    def function(kind, dtype):
        return lambda call, inputs: UNARY[name](call, KINDS[kind](call, inputs[dtype]))

    pairs = [(kind, dtype) for kind in KINDS if kind not in NUMBERS for dtype in DTYPES]
    assert disagreements((pair, function(*pair)) for pair in pairs) == []
