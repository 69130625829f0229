"""What the caller trusts: functions and operators whose derivatives the library does not know.

    an autograd.Function           is captured as its forward: its backward must be the derivative of that
    an operator of torch.library   stays one call of the program, differentiated by its own formulas

Trust is checked at the first call of every program, by ``check_quadratic`` on the very arguments and by the loss's own
gradient; a program that fails is refused.
"""

import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.tracing.agreement import aside
from alpha_func.errors import AlphaFuncError, CaptureError
from alpha_func.losses.in_double import doubled, loss_in_double
from alpha_func.tree import Tree

Trusted = type[torch.autograd.Function] | torch._ops.OpOverload | torch._ops.OpOverloadPacket
# Of two ways to the same gradient, in float64; a model of float32 may cast to that within (softmax in transformers).
_TOLERANCE = {torch.float64: 1e-9}
_OF_OTHERS = 1e-5


def require_trust(trust: Collection[Trusted] | Trusted) -> frozenset[Trusted]:
    """The functions and operators that are trusted.

    Raises:
        TypeError: something else is among them.
    """
    found = [trust] if isinstance(trust, type) or not isinstance(trust, Collection) else [*trust]
    for each in found:
        if not (isinstance(each, type) and issubclass(each, torch.autograd.Function)) and not is_operator(each):
            raise TypeError(
                "trust must hold subclasses of torch.autograd.Function and operators (torch.ops.library.name), "
                f"got {each!r}"
            )
    return frozenset(found)


def is_operator(value: object) -> bool:
    """Whether a value is an operator of torch.ops."""
    return isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))


def names_of(trust: Collection[object]) -> set[str]:
    """The names of the trusted operators, as a program has them."""
    names = set[str]()
    for each in trust:
        if isinstance(each, torch._ops.OpOverloadPacket):
            names |= {str(getattr(each, overload)) for overload in each.overloads()}  # type: ignore[no-untyped-call]
        elif isinstance(each, torch._ops.OpOverload):
            names.add(str(each))
    return names


def require_right(
    loss: Callable[..., Tensor],
    captured: Callable[[Callable[..., Tensor]], Any],
    params: Tree,
    args: Args,
    kwargs: Kwargs,
) -> None:
    """Refuse a loss whose derivatives are not those of its values, at these arguments.

    Args:
        loss: as it was given.
        captured: captures a loss in the same way, its trust taken for granted.
        params, args, kwargs: what it is called with.

    Raises:
        CaptureError: the derivatives by the program, by the loss and by differences are not the same, or there is
            nothing to compare with.
    """
    from alpha_func.check import check_quadratic  # which is made of captured losses

    with aside(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nobody has verified them, which this does
        params = tree.map(Tensor.detach, params)
        direction = tree.randn_like(params, generator=_generator(params))
        try:
            check = check_quadratic(captured(loss), params, direction, *args, **kwargs)
            slope = _slope(loss_in_double(loss), params, direction, args, kwargs)
            of_program = _slope(captured(loss_in_double(loss)), params, direction, args, kwargs)
        except (AlphaFuncError, RuntimeError) as error:
            raise CaptureError(f"trust= cannot be checked: {error}") from error
    found = list(check.parts)
    tolerance = max(_TOLERANCE.get(leaf.dtype, _OF_OTHERS) for leaf in tree.leaves(params))
    reach = tolerance * (float(tree.norm(direction)) * 1e-3 + abs(slope))
    if not abs(float(check.quadratic.slope) - slope) <= reach:
        found.append(f"slope is {float(check.quadratic.slope):.9g}, and by the loss's own gradient {slope:.9g}")
    if not abs(of_program - slope) <= reach:  # what a forward detaches, a program takes for constant
        found.append(f"slope of the program is {of_program:.9g}, and by the loss's own gradient {slope:.9g}")
    if found:
        raise CaptureError(
            f"trust= names a function or operator whose derivatives are wrong here: {'; '.join(found)}; leave it out"
        )


def _generator(params: Tree) -> torch.Generator:
    devices = {leaf.device for leaf in tree.leaves(params)}
    return torch.Generator(devices.pop() if len(devices) == 1 else "cpu").manual_seed(0)


def _slope(loss: Callable[..., Tensor], params: Tree, direction: Tree, args: Args, kwargs: Kwargs) -> float:
    """dᵀg by one backward pass of a loss that takes float64."""
    at, d, args, kwargs = tree.map(doubled, (params, direction, args, kwargs))
    at = tree.map(lambda leaf: leaf.detach().requires_grad_(), at)
    with torch.enable_grad():
        value = loss(at, *args, **kwargs)
        if not value.requires_grad:
            return 0.0
        grads = torch.autograd.grad(value, tree.leaves(at), materialize_grads=True)
    return sum(float((g * v).sum()) for g, v in zip(grads, tree.leaves(d), strict=True))
