"""H as others' operators: the dense Hessian, their eigenvalues and traces of it, and what is refused."""

import sys

import pytest
import torch
from torch import nn

from alpha_func import capture
from alpha_func.linear_operators import curvlinops_operator, flat_hessian, jax_product, scipy_operator
from tests.helpers.cases import MODULES, mse_net
from tests.helpers.reference import dense, flat


def small():
    return mse_net(activation=nn.Tanh)


def truth(case):
    return dense(case.loss, case.params, *case.args).hessian


@pytest.mark.parametrize("wrap", [lambda loss: loss, capture], ids=["plain", "captured"])
def test_flat_products_are_the_dense_hessian(wrap):
    case = small()
    h = flat_hessian(wrap(case.loss))(case.params, *case.args)
    columns = torch.stack([h.product(e) for e in torch.eye(h.size, dtype=h.dtype)], -1)
    assert torch.allclose(columns, truth(case), rtol=0, atol=1e-10 * float(truth(case).norm()))
    assert torch.equal(h.flat(h.tree(flat(case.direction))), flat(case.direction))


def test_the_order_of_the_vector_is_that_of_the_leaves():
    h = flat_hessian(lambda p: (p["x"] ** 3).sum() + (p["y"] ** 2).sum())({"x": torch.ones(2), "y": torch.ones(1)})
    assert h.product(torch.tensor([1.0, 2.0, 3.0])).tolist() == [6.0, 12.0, 6.0]


def test_parameters_of_two_dtypes_make_a_vector_of_the_wider():
    params = {"x": torch.ones(2), "y": torch.ones(1, dtype=torch.float64)}
    h = flat_hessian(lambda p: (p["x"].double() ** 2).sum() + (p["y"] ** 2).sum())(params)
    assert (h.dtype, h.product(torch.ones(3)).tolist()) == (torch.float64, [2.0, 2.0, 2.0])


def test_scipy_finds_the_top_eigenvalue():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    case = small()
    operator = scipy_operator(capture(case.loss))(case.params, *case.args)
    assert operator.dtype == "float64"
    expected = torch.linalg.eigvalsh(truth(case))[-1]
    assert linalg.eigsh(operator, k=1, which="LA", return_eigenvectors=False)[0] == pytest.approx(
        float(expected), rel=1e-10
    )


def test_scipy_s_operator_is_the_dense_hessian_and_symmetric():
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("scipy")
    case = MODULES["layer_norm"]()
    operator = scipy_operator(case.loss)(case.params, *case.args)
    expected, eye = truth(case).numpy(), numpy.eye(operator.shape[0])
    tol = 1e-10 * numpy.linalg.norm(expected)
    assert abs(operator @ eye - expected).max() <= tol
    assert abs(operator.T @ eye - expected).max() <= tol


def test_curvlinops_operator_is_the_dense_hessian_in_both_formats():
    pytest.importorskip("curvlinops")
    case = small()
    operator = curvlinops_operator(capture(case.loss))(case.params, *case.args)
    expected = truth(case)
    tol = 1e-10 * float(expected.norm())
    assert torch.allclose(operator @ torch.eye(len(expected), dtype=torch.float64), expected, rtol=0, atol=tol)
    d = list(case.direction.values())
    assert torch.allclose(flat(operator @ d), expected @ flat(d), rtol=0, atol=tol)
    assert abs(operator.to_scipy("float64") @ flat(d).numpy() - (expected @ flat(d)).numpy()).max() <= tol


def test_curvlinops_estimates_the_trace():
    curvlinops = pytest.importorskip("curvlinops")
    torch.manual_seed(0)
    case = small()
    operator = curvlinops_operator(case.loss)(case.params, *case.args)
    found = curvlinops.hutchpp_trace(operator, num_matvecs=45)
    assert float(found) == pytest.approx(float(truth(case).trace()), rel=0.05)


def test_jax_calls_the_product_from_within_jit_and_vmap():
    jax = pytest.importorskip("jax")
    case = small()
    product = jax_product(case.loss)(case.params, *case.args)
    expected = truth(case)
    with jax.enable_x64(True):
        eye = jax.numpy.eye(len(expected), dtype="float64")
        found = jax.jit(jax.vmap(product))(eye)
        assert abs(found - jax.numpy.asarray(expected.numpy())).max() <= 1e-10 * float(expected.norm())


def test_matfree_finds_the_top_eigenvalue():
    matfree = pytest.importorskip("matfree")
    import jax
    from matfree import decomp, eig

    assert matfree
    case = small()
    product = jax_product(case.loss)(case.params, *case.args)
    with jax.enable_x64(True):
        n = len(truth(case))
        tridiagonal = decomp.tridiag_sym(30, materialize=True)
        vals, _ = eig.eigh_partial(tridiagonal)(product, jax.numpy.ones(n, dtype="float64"))
    assert float(vals[-1]) == pytest.approx(float(torch.linalg.eigvalsh(truth(case))[-1]), rel=1e-8)


def test_a_vector_of_another_length_is_refused():
    case = small()
    with pytest.raises(ValueError, match=r"vector has shape \(3,\): expected \(61,\)"):
        flat_hessian(case.loss)(case.params, *case.args).product(torch.ones(3))


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match=r"params\['z'\] is torch.complex64: a flat vector is real"):
        flat_hessian(lambda p: p["z"].abs().sum())({"z": torch.ones(2, dtype=torch.complex64)})


@pytest.mark.parametrize(
    ("adapter", "module", "remedy"),
    [
        (scipy_operator, "scipy.sparse.linalg", "pip install scipy"),
        (curvlinops_operator, "curvlinops._torch_base", "pip install curvlinops-for-pytorch"),
        (jax_product, "jax", "pip install jax"),
    ],
)
def test_a_library_that_is_not_there_is_named_with_its_remedy(monkeypatch, adapter, module, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=remedy):
        adapter(lambda p: p.sum())


def test_a_complex_vector_keeps_its_imaginary_part():
    pytest.importorskip("scipy.sparse.linalg")
    case = small()
    operator, expected = scipy_operator(case.loss)(case.params, *case.args), truth(case).numpy()
    vector = torch.randn(operator.shape[0], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    v = vector[:, 0] + 1j * vector[:, 1]
    assert abs(operator @ v - expected @ v).max() <= 1e-10 * abs(expected @ v).max()


def test_a_jax_vector_of_whole_numbers_has_no_truncated_product():
    jax = pytest.importorskip("jax")
    product = jax_product(lambda x: (x**2).sum() * 0.75)(torch.ones(2))
    assert product(jax.numpy.array([1, 2])).tolist() == [1.5, 3.0]


def test_a_tree_or_a_vector_of_another_size_is_refused():
    h = flat_hessian(lambda p: (p["x"] ** 2).sum())({"x": torch.ones(2)})
    with pytest.raises(ValueError, match="value must have the structure of params"):
        h.flat({"y": torch.ones(2)})
    with pytest.raises(ValueError, match=r"vector has shape \(3,\): expected \(2,\)"):
        h.tree(torch.ones(3))
