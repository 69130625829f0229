"""Every case of the exactness table: each model and loss, captured, under each scheme, backend and dtype.

python -m tests.helpers.exactness_table --backend inductor     (everything; minutes, a compilation takes seconds)

A scheme is what a transform runs on a captured loss. Along a given direction: ``taylor`` by one forward sweep,
``parts`` by the second-order adjoint after a gradient; ``descent`` is the adjoint along d = −g.
"""

import argparse
import copy
import sys
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from alpha_func import Quadratic, capture, grad_and_quadratic, quadratic_along, tree
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.losses.module_loss import ModuleLoss
from tests.helpers.cases import MODULES, Case
from tests.helpers.models import IN_PRIMITIVES, LOSSES, MODELS, with_loss
from tests.helpers.reference import assert_close, differences, double_backward, flat

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
SCHEMES = ("taylor", "parts", "descent")
REFUSED = {"ctc_loss"}
PIECEWISE_LINEAR = {  # PyTorch has no double backward of them
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_margin_loss, few labels",
}


CASES: dict[str, Callable[[], Case]] = {
    **{f"{name} (net)": make for name, make in MODULES.items()},
    **MODELS,
    **{name: lambda name=name: with_loss(name) for name in LOSSES if name not in REFUSED},
}


class Truth(NamedTuple):
    """The quadratic along a direction by PyTorch on the uncaptured loss, its scale, and the gradient."""

    quadratic: Quadratic
    scale: Any  # of an error in the curvature: ‖d‖‖Hd‖
    gradient: Any


@cache
def case_of(name: str) -> Case:
    return CASES[name]()


def truth_of(name: str, direction: Any) -> Truth:
    """By double backward of the uncaptured module where that is right, by extrapolated differences elsewhere."""
    case = case_of(name)
    loss, params, d = case.loss, case.params, direction
    if name in IN_PRIMITIVES:
        loss, params, _, _ = IN_PRIMITIVES[name]()
        d = dict(zip(params, direction.values(), strict=True))
    with twice_differentiable():
        gradient = torch.func.grad(loss)(params, *case.args)
        if name in PIECEWISE_LINEAR:
            value = loss(params, *case.args)
            along = differences(loss, params, d, *case.args) if flat(d).any() else (value, 0 * value, 0 * value)
            quadratic = Quadratic(*along)
            return Truth(quadratic, 1e3 * (abs(quadratic.value) + abs(quadratic.curvature)), gradient)  # 1e-6
        quadratic, norm = double_backward(loss, params, d, *case.args)
    return Truth(quadratic, flat(d).norm() * norm + abs(quadratic.value), gradient)


@cache
def truth_along_its_direction(name: str) -> Truth:
    return truth_of(name, case_of(name).direction)


def cast(case: Case, dtype: torch.dtype) -> Case:
    """The case in another dtype, module and all."""
    if dtype is torch.float64:
        return case
    model = copy.deepcopy(case.loss.model).to(dtype)
    loss = ModuleLoss(model, case.loss.names, case.loss.seed)
    convert = lambda leaf: leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf  # noqa: E731
    return Case(loss, *tree.map(convert, (case.params, case.direction, case.args)))


@cache
def captured(name: str, dtype: torch.dtype, backend: str) -> tuple[Any, Case]:
    case = cast(case_of(name), dtype)
    return capture(case.loss, backend=backend, strict=True), case


def check(name: str, scheme: str, backend: str, dtype: torch.dtype) -> None:
    """Value, slope, curvature and gradient of one case, against float64 by PyTorch."""
    loss, case = captured(name, dtype, backend)
    tol = TOLERANCE[dtype]
    grads, along = None, case.direction
    if scheme == "taylor":
        quadratic = quadratic_along(loss)(case.params, along, *case.args)
    elif scheme == "parts":
        grads, _, quadratic = grad_and_quadratic(loss, lambda _: along)(case.params, *case.args)
    else:
        grads, along, quadratic = grad_and_quadratic(loss)(case.params, *case.args)
        assert torch.equal(flat(along), -flat(grads))
    if scheme == "descent":
        truth = truth_of(name, tree.map(lambda leaf: leaf.double(), along))
    else:
        truth = truth_along_its_direction(name)
    gradient = flat(truth.gradient)
    if grads is not None:
        error = (flat(grads).double() - gradient).norm()
        assert error <= tol * (gradient.norm() + 1e-3), f"gradient is off by {float(error)} of {float(gradient.norm())}"
    assert_close(quadratic.value, truth.quadratic.value, tol, abs(truth.quadratic.value) + 1e-3)
    assert_close(quadratic.slope, truth.quadratic.slope, tol, flat(along).double().norm() * gradient.norm() + 1e-3)
    assert_close(quadratic.curvature, truth.quadratic.curvature, tol, truth.scale)


def main() -> None:
    """Check every case and print those that fail."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="eager")
    parser.add_argument("--dtype", choices=("float64", "float32"), nargs="+", default=("float64", "float32"))
    parser.add_argument("--scheme", nargs="+", default=SCHEMES)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    failed = ran = 0
    for name in arguments.names or CASES:
        for dtype in arguments.dtype:
            for scheme in arguments.scheme:
                ran += 1
                try:
                    check(name, scheme, arguments.backend, getattr(torch, dtype))
                except Exception as error:
                    failed += 1
                    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
                    print(f"{name}, {scheme}, {dtype}: {lines[0][:300]}", flush=True)
        captured.cache_clear()
    print(f"{ran} checks of {len(arguments.names or CASES)} cases, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
