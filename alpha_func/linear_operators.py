"""H as others' linear operators: its eigenvalues and traces are theirs to compute.

The parameters are one flat vector, the leaves of the tree in their order. Every operator is of one point and one batch,
and each product costs one ``hvp``: captured, exact, behind the guard.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Function
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import aligned, check_params
from alpha_func.transforms.verbs import hvp
from alpha_func.tree import Tree

__all__ = ["FlatHessian", "curvlinops_operator", "flat_hessian", "jax_product", "scipy_operator"]


class FlatHessian(NamedTuple):
    """v ↦ Hv of flat vectors.

    Attributes:
        size: how many numbers the parameters are.
        dtype, device: of a vector.
        product: of a tensor of shape (size,), which may be complex.
        flat, tree: from a tree of the parameters' structure to a vector, and back.
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    product: Callable[[Tensor], Tensor]
    flat: Callable[[Tree], Tensor]
    tree: Callable[[Tensor], Tree]


def flat_hessian(loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None) -> Callable[..., FlatHessian]:
    """The Hessian of a loss as a function of flat vectors.

    Args:
        loss: as for ``quadratic_along``; capture it.
        strategy: as for ``quadratic_along``.

    Returns:
        ``(params, *args, **kwargs) -> FlatHessian``. Parameters of several dtypes make a vector of the widest.

    Raises:
        TypeError: ``params`` is complex, or not as for ``quadratic_along``.

    >>> params = {"x": torch.tensor([1.0, 2.0]), "y": torch.ones(())}
    >>> hessian = flat_hessian(lambda p: (p["x"] ** 3).sum() + p["y"])(params)
    >>> hessian.product(torch.ones(3))
    tensor([ 6., 12.,  0.])
    """
    along = hvp(loss, strategy=strategy)

    def at(params: Tree, *args: object, **kwargs: object) -> FlatHessian:
        check_params(params)
        leaves, structure = tree.flatten(params)
        for path, leaf in tree.named_leaves(params):
            if leaf.is_complex():
                raise TypeError(f"params{path} is {leaf.dtype}: a flat vector is real; take .real and .imag apart")
        widest = leaves[0].dtype
        for leaf in leaves:
            widest = torch.promote_types(widest, leaf.dtype)
        sizes, device = [leaf.numel() for leaf in leaves], leaves[0].device

        def flat(value: Tree) -> Tensor:
            same = tree.leaves(aligned(params, value, "value"))
            return torch.cat([leaf.detach().reshape(-1).to(device, widest) for leaf in same])

        def of_vector(vector: Tensor) -> Tree:
            if vector.shape != (sum(sizes),):
                raise ValueError(f"vector has shape {tuple(vector.shape)}: expected ({sum(sizes)},)")
            parts = zip(torch.split(vector, sizes), leaves, strict=True)
            return tree.unflatten([part.view(leaf.shape).to(leaf) for part, leaf in parts], structure)

        def product(vector: Tensor) -> Tensor:
            if vector.is_complex():  # H is real
                parts = (product(part) for part in (vector.real, vector.imag))
                return torch.complex(*(part.to(tree.accumulator_dtype(widest)) for part in parts))
            return flat(along(params, of_vector(vector.to(device, widest)), *args, **kwargs))

        return FlatHessian(sum(sizes), widest, device, product, flat, of_vector)

    return at


def scipy_operator(loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None) -> Function:
    """H as a ``scipy.sparse.linalg.LinearOperator``, for ``eigsh``, ``cg``, ``minres`` and the rest of SciPy.

    Args:
        loss, strategy: as for ``flat_hessian``.

    Returns:
        ``(params, *args, **kwargs) -> LinearOperator``, symmetric.

    Raises:
        ImportError: SciPy is not installed.
    """
    numpy, linalg = _required("numpy"), _required("scipy.sparse.linalg")
    hessian = flat_hessian(loss, strategy=strategy)

    def operator(params: Tree, *args: object, **kwargs: object) -> Any:
        h = hessian(params, *args, **kwargs)

        def product(vector: object) -> Any:
            return _to_numpy(h.product(torch.tensor(numpy.asarray(vector).reshape(-1))))

        dtype = _to_numpy(torch.empty(0, dtype=h.dtype)).dtype
        return linalg.LinearOperator((h.size, h.size), matvec=product, rmatvec=product, dtype=dtype)

    return operator


def curvlinops_operator(loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None) -> Function:
    """H as a linear operator of curvlinops (3.0), for its traces, norms, diagonals, spectra and inverses.

    curvlinops' own ``HessianLinearOperator`` differentiates the module as it stands, and is off by 2e-4 on a GPT
    (``benchmarks/REPORT.md``). It takes and gives flat tensors, or a list of the leaves.

    Args:
        loss, strategy: as for ``flat_hessian``.

    Returns:
        ``(params, *args, **kwargs) -> PyTorchLinearOperator``.

    Raises:
        ImportError: curvlinops is not installed.
    """
    base = _required("curvlinops._torch_base").PyTorchLinearOperator
    hessian = flat_hessian(loss, strategy=strategy)

    class Hessian(base):  # type: ignore[misc, valid-type]
        """v ↦ Hv."""

        SELF_ADJOINT = True

        def __init__(self, h: FlatHessian, shapes: list[tuple[int, ...]]):
            super().__init__(shapes, shapes)
            self._h = h

        device = property(lambda self: self._h.device)
        dtype = property(lambda self: self._h.dtype)

        def _matmat(self, parts: list[Tensor]) -> list[Tensor]:
            columns = torch.cat([part.flatten(0, -2) for part in parts])
            products = torch.stack([self._h.product(column) for column in columns.T], -1)
            pieces = torch.split(products, self._in_shape_flat)
            return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]

    def operator(params: Tree, *args: object, **kwargs: object) -> Any:
        shapes = [tuple(leaf.shape) for leaf in tree.leaves(params)]
        return Hessian(hessian(params, *args, **kwargs), shapes)

    return operator


def jax_product(loss: Callable[..., Tensor], *, strategy: StrategyLike | None = None) -> Function:
    """v ↦ Hv of a JAX array, which is what matfree and ``jax.scipy.sparse.linalg`` take for an operator.

    It is called back from within ``jit``, and one vector at a time under ``vmap``. JAX cannot differentiate it.

    Args:
        loss, strategy: as for ``flat_hessian``.

    Returns:
        ``(params, *args, **kwargs) -> (v -> Hv)``. In float64 where JAX has it enabled, otherwise what JAX makes of it.

    Raises:
        ImportError: JAX is not installed.
    """
    jax, numpy = _required("jax"), _required("numpy")
    hessian = flat_hessian(loss, strategy=strategy)

    def at(params: Tree, *args: object, **kwargs: object) -> Callable[[Any], Any]:
        h = hessian(params, *args, **kwargs)

        def outside(vector: Any) -> Any:
            return _to_numpy(h.product(torch.tensor(numpy.asarray(vector)))).astype(vector.dtype)

        def product(vector: Any) -> Any:
            vector = vector * 1.0  # of whole numbers the product is none
            shape = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
            return jax.pure_callback(outside, shape, vector, vmap_method="sequential")

        return product

    return at


def _to_numpy(vector: Tensor) -> Any:
    numbers = vector.detach().cpu()
    return (numbers.float() if numbers.dtype in (torch.float16, torch.bfloat16) else numbers).numpy()


def _required(module: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        name = {"curvlinops": "curvlinops-for-pytorch"}.get(module.partition(".")[0], module.partition(".")[0])
        raise ImportError(f"{name} is not installed: pip install {name}") from error
