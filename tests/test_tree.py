import pytest
import torch

from alpha_func import tree

X = {"a": torch.tensor([1.0, -2.0]), "b": [torch.tensor([[3.0]])]}
Y = {"a": torch.tensor([0.5, 1.0]), "b": [torch.tensor([[-1.0]])]}


def test_operations_are_those_of_the_flat_vectors():
    assert tree.leaves(tree.add(X, Y))[0].tolist() == [1.5, -1.0]
    assert tree.leaves(tree.sub(X, Y))[1].item() == 4.0
    assert tree.leaves(tree.neg(X))[0].tolist() == [-1.0, 2.0]
    assert tree.leaves(tree.scale(3.0, X))[1].item() == 9.0
    assert tree.leaves(tree.axpy(2.0, X, Y))[0].tolist() == [2.5, -3.0]
    assert tree.vdot(X, Y).item() == 0.5 - 2.0 - 3.0
    assert tree.norm(Y).item() == 1.5


def test_vdot_pairs_dicts_by_key_not_by_order():
    x = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    y = {"b": torch.tensor([10.0]), "a": torch.tensor([100.0])}
    assert tree.vdot(x, y).item() == 120.0


def test_scale_and_axpy_keep_the_dtype_of_each_leaf():
    mixed = [torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float64)]
    for result in (tree.scale(torch.tensor(2.0, dtype=torch.float64), mixed), tree.axpy(torch.ones(()), mixed, mixed)):
        assert [leaf.dtype for leaf in result] == [torch.bfloat16, torch.float64]


def test_low_precision_products_accumulate_in_float32():
    x = torch.ones(4096, dtype=torch.bfloat16)
    assert tree.vdot(x, x).item() == 4096.0
    assert tree.vdot(x, x).dtype == torch.float32


def test_a_long_inner_product_keeps_the_digits_of_float32():
    torch.manual_seed(0)
    x = torch.randn(2**24)
    exact = float(x.double() @ x.double())
    assert tree.vdot(x, x).item() == pytest.approx(exact, rel=1e-6)
