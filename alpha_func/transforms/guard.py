"""A look at the operators that a loss really runs, before a strategy differentiates them.

PyTorch's formulas of some operators are wrong when they are differentiated again, without an error (pytorch#198017).
Which ones, under which strategy, has been measured; see ``verified.table``. The look costs two forward passes and a
backward pass, at the first call per signature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.errors import CaptureError, ImpureLossError, StrategyError, warn
from alpha_func.losses.kinds import refuse_kinds
from alpha_func.losses.looking import looking
from alpha_func.losses.module_loss import Watched, module_loss_of
from alpha_func.losses.signature import signature
from alpha_func.transforms.plainly import Plainly
from alpha_func.transforms.strategies import STRATEGIES, Strategy
from alpha_func.tree import Tree
from alpha_func.verified.formulas import ONCE, OWN_JVP, nodes_of, requiring_grad
from alpha_func.verified.table import operator_of, table

_KEPT_SIGNATURES = 256
_WRONG = ("wrong", "crash")
_DIFFERENTIATE_A_BACKWARD = ("forward_over_reverse", "reverse_over_reverse")
_warned: set[str] = set()


class Looked(NamedTuple):
    """What a look at a loss found.

    Attributes:
        names: of what differentiates it.
        kind: which table of ``verified`` knows them.
        plainly: the loss as plain autograd has it, to compare with; None where there is nothing to compare.
    """

    names: set[str]
    kind: str
    plainly: Plainly | None = None


Operators = Callable[[Callable[..., Tensor], Tree, tuple[Any, ...], dict[str, Any]], Looked]

# Not formulas: the bookkeeping of autograd for in-place writes and casts, and what stands for no gradient.
_BOOKKEEPING = {"CopyBackwards", "CopySlices", "NotImplemented", "UndefinedGrad", "ToCopyBackward0", "AliasBackward0"}
_BOOKKEEPING |= {"SqueezeBackward3", "SqueezeBackward5"}  # a view that vmap writes

# Their gradient is that of the symmetric part; forward mode reads one triangle or takes the whole.
_SYMMETRIC = {"LinalgCholeskyExBackward0", "LinalgEighBackward0"}

# Exact twice, wrong a third time, silently (pytorch#196700, #196699): batch normalisation by whatever kernel.
_WRONG_THIRD = {"NativeLayerNormBackward0", "NativeBatchNormBackward0[training]", "CudnnBatchNormBackward0[training]"}


class Guard:
    """Refuses a loss that runs an operator known to be wrong under a strategy; warns of one never verified.

    Args:
        strategy: the one that is guarded; the caller's own is not.
        operators: how to look at a loss.
    """

    def __init__(self, strategy: Strategy, operators: Operators):
        self._name = strategy.name if strategy.is_known else None
        self._operators = operators
        self._looked_at: dict[Any, tuple[str, ...]] = {}

    def __call__(
        self, loss: Callable[..., Tensor], params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[str, ...], Plainly | None]:
        """Look at the loss, unless this signature has been looked at.

        Returns:
            The operators whose third derivative is wrong; at a first look, the loss as plain autograd has it.
        """
        if self._name is None:  # the caller's own strategy
            return (), None
        try:
            key = _key(loss, params, args, kwargs)
        except RuntimeError:
            refuse_kinds(args, kwargs)  # a nested tensor, which has no shape
            raise
        if key in self._looked_at:
            return self._looked_at[key], None
        refuse_kinds(args, kwargs)
        try:
            names, kind, plainly = self._operators(loss, params, args, kwargs)
        except (CaptureError, ImpureLossError, StrategyError):
            raise
        except Exception as error:
            with Watched():
                loss(params, *args, **kwargs)  # the loss's own error, where it is one
            _warn_once(f"the operators of the loss could not be looked at ({type(error).__name__}: {error})")
            return (), None
        self._judge(names, kind)
        third = tuple(operator_of(name) for name in sorted(names & _WRONG_THIRD))
        if len(self._looked_at) >= _KEPT_SIGNATURES:
            self._looked_at.clear()
        self._looked_at[key] = third
        return third, plainly

    def _judge(self, names: set[str], kind: str) -> None:
        known, name = table(kind), self._name
        assert name is not None
        once = sorted(operator_of(n) for n in names if n.endswith(ONCE))
        if once and name in _DIFFERENTIATE_A_BACKWARD:
            raise StrategyError(
                f"{', '.join(once)} is an autograd.Function whose backward is marked once_differentiable: torch.func "
                f"takes its derivative for zero, and so would strategy {name!r}; write a backward that can be "
                "differentiated, or the function in torch operators"
            )
        own = sorted(operator_of(n) for n in names if n.endswith(OWN_JVP))
        if own and name == "forward_over_forward":
            raise StrategyError(
                f"{', '.join(own)} is an autograd.Function with a jvp of its own: torch.func takes its derivative for "
                f"zero, and so would strategy {name!r}; use strategy='reverse_over_reverse', or write the function in "
                "torch operators"
            )
        symmetric = sorted(operator_of(n) for n in names & _SYMMETRIC)
        if symmetric and name != "reverse_over_reverse":
            raise StrategyError(
                f"{', '.join(symmetric)} takes its matrix for symmetric, and strategy {name!r} gives another number "
                "than the gradient does where its direction is not; use strategy='reverse_over_reverse' or "
                "capture(loss), which take the symmetric part"
            )
        wrong = sorted(n for n in names if n in known and known[n][name] in _WRONG)
        if wrong:
            raise StrategyError(self._explanation(wrong, names, kind))
        for unknown in sorted(names - known.keys() - _BOOKKEEPING):
            if kind == "derivative" and not unknown.endswith(ONCE):
                _warn_once(f"the second derivative of {operator_of(unknown)} has never been verified")

    def _explanation(self, wrong: list[str], names: set[str], kind: str) -> str:
        known = table(kind)
        operators = ", ".join(dict.fromkeys(operator_of(n) for n in wrong))
        right = [s for s in STRATEGIES if all(known[n][s] == "exact" for n in names if n in known)]
        right.sort(key=lambda s: s != "reverse_over_reverse")
        remedies = [f"use strategy={right[0]!r}, which is exact on it"] if right else []
        if kind == "derivative":
            remedies.append("capture(loss), which writes it in simpler operators first")
        remedies = remedies or ["write it in simpler operators"]
        return (
            f"strategy {self._name!r} is wrong through {operators}, silently: PyTorch's formula, differentiated again, "
            f"is not the second derivative; {' or '.join(remedies)}"
        )


def formulas(loss: Callable[..., Tensor], params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Looked:
    """PyTorch's formulas that a backward pass of the loss runs."""
    leaves = requiring_grad(params)
    with torch.enable_grad(), Watched():
        with looking(leaves, (args, kwargs)) as look:
            look.protect([(f"params{path}", leaf) for path, leaf in tree.named_leaves(params)])
            loss(leaves, *args, **kwargs)
        value = loss(leaves, *args, **kwargs)  # again: some operators run another formula while they are looked at
    return Looked(nodes_of(value), "derivative", Plainly.of(value, leaves))


def twice_exact(value: Tensor) -> bool:
    """Whether double backward is known to be right through every operator that a value has been made by."""
    known = table("derivative")
    names = nodes_of(value) - _BOOKKEEPING
    return all(known.get(name, {}).get("reverse_over_reverse") == "exact" for name in names)


def sealed(number: Tensor, third: tuple[str, ...]) -> Tensor:
    """A second derivative that raises when it is differentiated, where a third derivative of an operator is wrong."""
    return _Sealed.apply(number, ", ".join(third)) if third else number  # type: ignore[no-untyped-call]


class _Sealed(torch.autograd.Function):
    """The identity, without a derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(number: Tensor, operators: str) -> Tensor:
        return number.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        ctx.operators = inputs[1]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise StrategyError(_THIRD.format(ctx.operators))

    @staticmethod
    def jvp(ctx: Any, *_: Tensor) -> Any:
        raise StrategyError(_THIRD.format(ctx.operators))


_THIRD = (
    "a curvature through {} is differentiated: PyTorch's third derivative of it is wrong, silently; "
    "capture(loss) first, which writes it in simpler operators"
)


def _warn_once(what: str) -> None:
    if what not in _warned:
        _warned.add(what)
        warn(f"{what}: check the result with alpha_func.check_quadratic")


def _key(loss: Callable[..., Tensor], params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source = module_loss_of(loss)
    token = source.state.read()[0] if source is not None else 0
    try:
        return signature(params, args, kwargs)[0], token
    except TypeError:  # arguments that a signature cannot hold; an uncaptured loss may take them
        return token
