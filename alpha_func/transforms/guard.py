"""A look at the operators that a loss really runs, before a strategy differentiates them.

PyTorch's formulas of some operators are wrong when they are differentiated again, without an error (pytorch#198017).
Which ones, under which strategy, has been measured; see ``verified.table``.

    first call of a signature    two forward passes and a backward pass: what the loss reads, writes, draws and runs
    every call                   the graph of the value that the strategy differentiates: a branch that it takes now
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.errors import ImpureLossError, StrategyError
from alpha_func.losses.kinds import refuse_kinds
from alpha_func.losses.looking import looking
from alpha_func.losses.module_loss import Watched, module_loss_of
from alpha_func.losses.signature import signature
from alpha_func.transforms.doubts import doubt, warn_once
from alpha_func.transforms.plainly import Plainly
from alpha_func.transforms.strategies import STRATEGIES, Loss, Strategy
from alpha_func.tree import Tree
from alpha_func.verified.formulas import (
    ONCE,
    OWN_JVP,
    cut_backwards,
    derivative_nodes,
    graph_of,
    nodes_of,
    requiring_grad,
)
from alpha_func.verified.table import operator_of, table

_KEPT = 256  # signatures, and sets of operators
_WRONG = ("wrong", "crash")
_DIFFERENTIATE_A_BACKWARD = ("forward_over_reverse", "reverse_over_reverse")


Operators = Callable[[Callable[..., Tensor], Tree, Args, Kwargs], set[str]]

# Not formulas: the bookkeeping of autograd for in-place writes and casts, and what stands for no gradient.
_BOOKKEEPING = {"CopyBackwards", "CopySlices", "NotImplemented", "UndefinedGrad", "ToCopyBackward0", "AliasBackward0"}
_BOOKKEEPING |= {"SqueezeBackward3", "SqueezeBackward5"}  # a view that vmap writes

_OF_LIBRARY = "GeneratedBackwardFor_"  # the formula of an operator of torch.library, in Python

# Their gradient is that of the symmetric part; forward mode reads one triangle or takes the whole.
_SYMMETRIC = {"LinalgCholeskyExBackward0", "LinalgEighBackward0"}

# Its gradient holds the padding row constant; forward mode moves it.
_HELD = "EmbeddingBackward0[padding_idx]"

# Exact twice, wrong a third time, silently (pytorch#196700, #196699): batch normalisation by whatever kernel.
_WRONG_THIRD = {"NativeLayerNormBackward0", "NativeBatchNormBackward0[training]", "CudnnBatchNormBackward0[training]"}


class Guard:
    """Refuses a loss that runs an operator known to be wrong under a strategy; warns of one never verified.

    Args:
        strategy: the one that is guarded; the caller's own is not.
        operators: those of the program of a captured loss; left out, a loss is looked at as autograd has it.
    """

    def __init__(self, strategy: Strategy, operators: Operators | None = None):
        self.name = strategy.name if strategy.is_known else None
        self._operators = operators
        self._looked_at: set[object] = set()
        self._judged: set[frozenset[str]] = set()

    def __call__(self, loss: Callable[..., Tensor], params: Tree, args: Args, kwargs: Kwargs) -> "GuardedCall":
        """Look at one call of the loss."""
        if self.name is None:  # the caller's own strategy
            return GuardedCall(None)
        if self._operators is not None:
            names = self._operators(loss, params, args, kwargs)
            self.judge(names, "primitive")
            return GuardedCall(None, names)
        try:
            key = key_of(loss, params, args, kwargs)
        except RuntimeError:
            refuse_kinds(args, kwargs)  # a nested tensor, which has no shape
            raise
        seen = GuardedCall(self)
        if key in self._looked_at:
            if self.name == "forward_over_forward":  # there is no graph to see it in
                with Watched():  # as the strategy runs it
                    seen.see(derivative_nodes(loss, params, args, kwargs))
            return seen
        refuse_kinds(args, kwargs)
        try:
            names, seen.plainly = formulas(loss, params, args, kwargs)
        except (ImpureLossError, StrategyError):
            raise
        except Exception as error:
            with Watched():
                loss(tree.map(Tensor.clone, params), *args, **kwargs)  # the loss's own error, where it is one
            warn_once(f"the operators of the loss could not be looked at ({type(error).__name__}: {error})")
            return seen
        seen.see(names)
        seen.settles = partial(_keep, self._looked_at, key)
        return seen

    def judge(self, names: set[str], kind: str) -> None:
        """Refuse operators that the strategy is wrong on."""
        found = frozenset(names)
        if found not in self._judged:
            self._judge(names, kind)
            _keep(self._judged, found)

    def _judge(self, names: set[str], kind: str) -> None:
        known, name = table(kind), self.name
        assert name is not None
        once = sorted(operator_of(n) for n in names if n.endswith(ONCE))
        if once and name in _DIFFERENTIATE_A_BACKWARD:
            raise StrategyError(
                f"{', '.join(once)} is an autograd.Function whose backward cannot be differentiated (it is marked "
                "once_differentiable, or computes without a graph): PyTorch treats its derivative as zero, and so "
                f"would strategy {name!r}; write one that can be differentiated, or the function in torch operators"
            )
        own = sorted(operator_of(n) for n in names if n.endswith(OWN_JVP))
        if own and name == "forward_over_forward":
            raise StrategyError(
                f"{', '.join(own)} is an autograd.Function with a jvp of its own: torch.func treats its derivative as "
                f"zero, and so would strategy {name!r}; use strategy='reverse_over_reverse', or write the function in "
                "torch operators"
            )
        library = sorted(operator_of(n) for n in names if n.startswith(_OF_LIBRARY))
        if library and name == "forward_over_forward":
            raise StrategyError(
                f"{', '.join(library)} is an operator of torch.library: torch.func treats its forward derivative as "
                f"zero, and so would strategy {name!r}; use strategy='reverse_over_reverse' or capture(loss, trust=...)"
            )
        symmetric = sorted(operator_of(n) for n in names & _SYMMETRIC)
        if symmetric and name != "reverse_over_reverse":
            raise StrategyError(
                f"{', '.join(symmetric)} treats its matrix as symmetric, and along a direction that is not symmetric "
                f"strategy {name!r} disagrees with the gradient; use strategy='reverse_over_reverse' or capture(loss), "
                "which take the symmetric part"
            )
        if _HELD in names and name != "reverse_over_reverse":
            raise StrategyError(
                f"embedding holds its padding_idx row constant in its gradient, and strategy {name!r} moves it; use "
                "strategy='reverse_over_reverse' or capture(loss), which hold it"
            )
        wrong = sorted(n for n in names if n in known and known[n].get(name) in _WRONG)
        if wrong:
            raise StrategyError(self._explanation(wrong, names, kind))

    def _explanation(self, wrong: list[str], names: set[str], kind: str) -> str:
        known = table(kind)
        operators = ", ".join(dict.fromkeys(operator_of(n) for n in wrong))
        right = [s for s in STRATEGIES if all(known[n].get(s) == "exact" for n in names if n in known)]
        right.sort(key=lambda s: s != "reverse_over_reverse")
        remedies = [f"use strategy={right[0]!r}, which is exact on it"] if right else []
        if kind == "derivative":
            remedies.append("capture(loss), which writes it in simpler operators first")
        remedies = remedies or ["write it in simpler operators"]
        return (
            f"strategy {self.name!r} is wrong through {operators}, silently: PyTorch's formula, differentiated again, "
            f"is not the second derivative; {' or '.join(remedies)}"
        )


class GuardedCall:
    """What is seen of one call, before it and on the way.

    Attributes:
        plainly: at a first look, the loss as plain autograd has it.
        settles: called when the call has come out right, after which its like is not looked at again.
    """

    def __init__(self, guard: Guard | None, operators: Iterable[str] = ()):
        self._guard, self._names, self._operators = guard, set[str](), frozenset(operators)
        self.plainly: Plainly | None = None
        self.settles: Callable[[], None] = lambda: None

    def see(self, names: set[str]) -> None:
        """Judge operators of the call."""
        assert self._guard is not None
        self._guard.judge(names, "derivative")
        self._names |= names

    def watched(self, loss: Loss) -> Loss:
        """The loss, what its value has been made by judged at every call."""
        if self._guard is None:
            return loss

        def watched(params: Tree) -> Tensor:
            value = loss(params)
            self.see(graph_of(value))
            return value

        return watched

    @property
    def passed(self) -> frozenset[str]:
        """The operators of the program, or the formulas that have been seen."""
        return self._operators | self._names

    def wrong_thrice(self) -> tuple[str, ...]:
        """The operators whose third derivative is wrong; warns of those that nobody knows, now that they have run."""
        for unknown in sorted(unverified(self._names)):
            if self._guard is not None and self._guard.name is not None and not unknown.endswith(ONCE):
                doubt(self._guard.name, unknown)
        return tuple(operator_of(name) for name in sorted(self._names & _WRONG_THIRD))


def formulas(loss: Callable[..., Tensor], params: Tree, args: Args, kwargs: Kwargs) -> tuple[set[str], Plainly | None]:
    """PyTorch's formulas that a backward pass of the loss runs, and the loss as plain autograd has it."""
    leaves = requiring_grad(params)
    with torch.enable_grad(), Watched():
        own = tree.map(Tensor.clone, leaves)  # autograd lets nothing write to a leaf, and says less than the look
        with looking(own, (args, kwargs)) as look:
            look.protect([(f"params{path}", leaf) for path, leaf in tree.named_leaves(params)])
            first = loss(own, *args, **kwargs)
        if look.hidden is not None:
            raise StrategyError(_HIDDEN.format(look.hidden))
        value = loss(leaves, *args, **kwargs)  # again: some operators run another formula while they are looked at
        names, plainly = nodes_of(value), Plainly.of(value, leaves, retain_graph=True)
        if plainly is not None:
            plainly.require_repeated(first)
    if plainly is not None:  # outside of the watch, which would give a derivative within a graph
        names |= {name + ONCE for name in cut_backwards(value, tree.leaves(leaves)) if not name.endswith(ONCE)}
    return names, plainly


def unverified(names: set[str]) -> set[str]:
    """Those of the formulas that the table does not know, an autograd.Function's for one."""
    return names.difference(table("derivative"), _BOOKKEEPING)


def twice_exact(names: set[str]) -> bool:
    """Whether double backward is known to be right through every one of the formulas."""
    known = table("derivative")
    return all(known.get(name, {}).get("reverse_over_reverse") == "exact" for name in names - _BOOKKEEPING)


def known_wrong(names: set[str]) -> bool:
    """Whether double backward is known to be wrong through one of them."""
    known = table("derivative")
    return any(known.get(name, {}).get("reverse_over_reverse") in _WRONG for name in names)


def sealed(number: Tensor, wrong_thrice: tuple[str, ...]) -> Tensor:
    """A second derivative that raises when it is differentiated, where a third derivative of an operator is wrong."""
    return _Sealed.apply(number, ", ".join(wrong_thrice)) if wrong_thrice else number  # type: ignore[no-untyped-call]


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


_HIDDEN = (
    "{}, which is not one of its arguments: autograd does not see it, and every derivative through it would be zero; "
    "pass it as an argument; for a checkpoint, use use_reentrant=False or capture(loss)"
)
_THIRD = (
    "a curvature through {} is being differentiated, and PyTorch's third derivative of it is silently wrong: "
    "use capture(loss), which writes it in simpler operators"
)


def _keep(kept: set[Any], new: Any) -> None:
    if len(kept) >= _KEPT:
        kept.clear()
    kept.add(new)


def key_of(loss: Callable[..., Tensor], params: Tree, args: Args, kwargs: Kwargs) -> Any:
    """A signature of a call, and the mode of the module."""
    source = module_loss_of(loss)
    mode = source is not None and source.model.training
    try:
        return signature(params, args, kwargs)[0], mode
    except TypeError:  # arguments that a signature cannot hold; an uncaptured loss may take them
        return mode
