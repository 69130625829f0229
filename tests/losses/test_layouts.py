"""What is kept for a layout is found for the same layout, and for no other."""

import pytest
import torch
from torch import nn

from alpha_func.losses.layouts import Layouts


def tensors():
    return [torch.ones(3, 2), torch.ones(2, 3)]


def with_last(change):
    return lambda: [tensors()[0], change(tensors()[1])]


OTHERS = {
    "shape": with_last(lambda x: torch.ones(2, 4)),
    "strides": with_last(lambda x: torch.ones(3, 2).mT),
    "dtype": with_last(torch.Tensor.double),
    "device": with_last(lambda x: x.to("meta")),
    "requires_grad": with_last(torch.Tensor.requires_grad_),
    "type": with_last(lambda x: nn.Parameter(x, requires_grad=False)),
    "conjugate": with_last(lambda x: torch.ones(2, 3, dtype=torch.complex64).conj().imag),
    "no tensor": with_last(lambda x: 1.0),
    "fewer": lambda: tensors()[:1],
    "more": lambda: [*tensors(), torch.ones(())],
}


@pytest.fixture
def layouts():
    import torch._dynamo.guards  # noqa: F401  without which nothing is kept

    layouts = Layouts()
    layouts.keep(["a", "b"], tensors(), lambda: "found")
    return layouts


def test_a_layout_is_found_whatever_the_values(layouts):
    assert layouts.find(["a", "b"], [torch.zeros(3, 2), torch.full((2, 3), 7.0)]) == "found"


@pytest.mark.parametrize("name", OTHERS)
def test_another_layout_is_not_found(layouts, name):
    assert layouts.find(["a", "b"], OTHERS[name]()) is None


def test_other_names_are_not_found(layouts):
    assert layouts.find(["b", "a"], tensors()) is None


def test_nothing_is_found_or_kept_under_a_transform(layouts):
    def inner(x):
        assert layouts.find(["a", "b"], [x, tensors()[1]]) is None
        layouts.keep(["a"], [x], lambda: "batched")
        return x

    torch.func.vmap(inner)(torch.ones(4, 3, 2))
    assert layouts.find(["a"], [torch.ones(3, 2)]) is None


@pytest.mark.parametrize("given", [torch.ones(2).to_sparse(), 1.0])
def test_what_has_no_layout_is_not_kept(layouts, given):
    layouts.keep(["x"], [given], lambda: "found")
    assert layouts.find(["x"], [given]) is None
