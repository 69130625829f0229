"""What holds of an architecture: captured, as it is, and both in float32, against the module called directly.

The truth is double backward by torch.autograd through a copy of the module itself: nothing of the library is in it.
"""

import copy
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from alpha_func import Quadratic, capture, functional_loss, grad_and_quadratic, quadratic_along
from alpha_func.errors import CaptureError, StrategyError
from tests.models import Example
from tests.models.table import ARCHITECTURES
from tests.models.transformers_in_float64 import in_float64

WAYS = "captured", "as it is", "captured, float32", "as it is, float32"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
OPERATOR = re.compile(r"aten\.\w+|(?<=cannot differentiate )\w+|(?<=wrong through )\w+")
Tree = dict[str, Tensor]


class InPrimitives(TorchFunctionMode):
    """What PyTorch's own double backward gets wrong (weight norm) or lacks (bags, distances), by its formula."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch._weight_norm:
            v, g, dim = args
            rest = [i for i in range(v.ndim) if i != dim % v.ndim]
            return v * (g / v.square().sum(rest, keepdim=True).sqrt())
        if func is F.embedding_bag and kwargs["mode"] == "sum":
            (indices, weight), offsets = args, kwargs["offsets"]
            bags = torch.bucketize(torch.arange(len(indices)), offsets, right=True) - 1
            return torch.zeros(len(offsets), weight.shape[1]).to(weight).index_add(0, bags, weight[indices])
        if func is torch.cdist:
            x, y = args
            return (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1).sqrt()
        return func(*args, **kwargs)


class Truth(NamedTuple):
    """The quadratic along a direction, the gradient, and ‖Hd‖."""

    quadratic: Quadratic
    gradient: Tree
    bend: Tensor


Truths = tuple[Truth, Truth] | None  # along a direction and along −g


def directly(example: Example, direction: Tree | None = None) -> Truth:
    """Double backward of the module called directly; without a direction, along −g."""
    module = copy.deepcopy(example.module)
    params = {name: p for name, p in module.named_parameters() if p.requires_grad}
    args, kwargs = example.call
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), InPrimitives():
        torch.manual_seed(0)
        value = example.loss_of(module, *args, **kwargs) if example.loss_of else module(*args, **kwargs)
        value = value if isinstance(value, Tensor) else value["loss"]
        slopes = torch.autograd.grad(value, list(params.values()), create_graph=True, materialize_grads=True)
        gradient = {name: g.detach() for name, g in zip(params, slopes, strict=True)}
        d = direction or {name: -g for name, g in gradient.items()}
        slope = sum((g * d[name]).sum() for name, g in zip(params, slopes, strict=True))
        products = torch.autograd.grad(slope, list(params.values()), materialize_grads=True)
    hd = dict(zip(params, products, strict=True))
    curvature = sum((x * d[name]).sum() for name, x in hd.items())
    return Truth(Quadratic(value.detach(), slope.detach(), curvature), gradient, norm(hd))


def norm(tree: Tree) -> Tensor:
    """‖tree‖ over all leaves."""
    return torch.stack([leaf.double().norm() for leaf in tree.values()]).norm()


def examine(name: str, ways: Sequence[str] = WAYS) -> dict[str, str]:
    """What the table says of an architecture, by way: yes, the named reason why not, or what is wrong."""
    example = ARCHITECTURES[name].example()
    borrowed = any(type(part).__module__.startswith("transformers.") for part in example.module.modules())
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with in_float64() if borrowed else nullcontext():
            double = example.in_dtype(torch.float64)
            direction = direction_of(double)
            try:
                truth = directly(double, direction), directly(double)
            except RuntimeError as error:  # PyTorch has no second derivative of an operator
                if "not implemented" not in str(error):
                    raise
                truth = None
            for way in ways:
                if "float32" not in way:
                    found[way] = verdict(double, direction, truth, way)
        single = example.in_dtype(torch.float32)
        direction = {name: leaf.float() for name, leaf in direction.items()}
        for way in ways:
            if "float32" in way:
                found[way] = verdict(single, direction, truth, way)
    return found


def direction_of(example: Example) -> Tree:
    """A random direction, whose numbers float32 has."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(p.shape, generator=generator).to(p)
        for name, p in example.module.named_parameters()
        if p.requires_grad
    }


def verdict(example: Example, direction: Tree, truth: Truths, way: str) -> str:
    """What the table says of a way; where a sweep is refused, what double backward of the program gives instead."""
    loss, params = functional_loss(example.module, loss_of=example.loss_of)
    if not way.startswith("captured"):
        return checked(loss, params, example, direction, truth)
    cell = checked(capture(loss, strict=True, trust=example.trust), params, example, direction, truth)
    if cell.startswith("unswept"):
        slower = checked(capture(loss, trust=example.trust), params, example, direction, truth)
        return f"{slower}, by double backward{cell.removeprefix('unswept')}" if slower == "yes" else slower
    return cell


def checked(loss, params: Tree, example: Example, direction: Tree, truth: Truths) -> str:
    """``quadratic_along`` and ``grad_and_quadratic`` against the truth along the direction and along −g."""
    args, kwargs = example.call
    try:
        along = quadratic_along(loss)(params, direction, *args, **kwargs)
        step = grad_and_quadratic(loss)(params, *args, **kwargs)
    except (CaptureError, StrategyError) as error:
        return ("unswept" if "leave out strict" in str(error) else "refused") + f": {reason(str(error))}"
    except Exception as error:
        return f"RAISED: {type(error).__name__}: {str(error).splitlines()[0]}"
    if truth is None:
        return "WRONG: PyTorch has no such derivative"
    gradient = truth[0].gradient
    off = norm({name: g.double() - gradient[name] for name, g in step.grads.items()})
    errors = {
        "quadratic_along": error_of(along, direction, truth[0]),
        "grad_and_quadratic": error_of(step.quadratic, step.direction, truth[1]),
        "gradient": float(off / (norm(gradient) + 1e-12)),
    }
    tolerance = TOLERANCE[next(iter(params.values())).dtype]
    wrong = [f"{what} by {error:.0e}" for what, error in errors.items() if not error <= tolerance]
    return f"WRONG: {', '.join(wrong)}" if wrong else "yes"


def reason(message: str) -> str:
    """The operator that a message names, or what it says of the line where tracing ended."""
    found = OPERATOR.search(message)
    if found:
        return f"`{found[0].removeprefix('aten.')}`"
    if "cannot be traced" in message:
        said = re.split(r"`: |traced: ", message)[-1]
        sentences = [x for x in re.split(r"\. |; | \(", said) if not x.startswith("Consider")]
        return f"cannot be traced, {sentences[0]}"
    return re.split(r"[:;]| at ", message)[0].replace("autograd.Function", "`autograd.Function`")


def error_of(got: Quadratic, direction: Tree, truth: Truth) -> float:
    """The largest error of the three numbers, each in units of the terms that cancel in it."""
    d, true = norm(direction), truth.quadratic
    scales = abs(true.value), d * norm(truth.gradient), d * truth.bend
    floor = 1e-3 * max(scales)  # a loss that is linear, a value that is zero
    return max(
        float(abs(x.double() - y.double()) / (scale + floor)) for x, y, scale in zip(got, true, scales, strict=True)
    )
