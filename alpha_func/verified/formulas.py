"""The derivative formulas that a loss runs, as autograd names them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.torch_private import (
    FakeTensor,
    get_unwrapped,
    is_functorch_wrapped_tensor,
    peek_interpreter_stack,
    plain_beneath,
)
from alpha_func.tree import Tree

# After the name of an autograd.Function: its backward is marked so; it has a jvp of its own.
ONCE = "[once_differentiable]"
OWN_JVP = "[own_jvp]"
_NORMALISATIONS = ("NativeLayerNormBackward0", "NativeBatchNormBackward0", "CudnnBatchNormBackward0")
_TELLING = ("_forward_cls", "_saved_training", "_saved_padding_idx")  # a node's name depends on what it saves
_NO_ROW = 2**63  # autograd keeps −1, no padding row, without its sign
_MAGNITUDES = {"AbsBackward0": "_saved_self", "StdBackward0": "_saved_result"}  # what is 0 where they are
_EVEN = (2, 4, 6, 8)
_MOVES = {"MulBackward0", "ViewBackward0", "UnsqueezeBackward0", "TBackward0", "TransposeBackward0", "PermuteBackward0"}
_MOVES |= {"ExpandBackward0", "SliceBackward0", "SelectBackward0", "IndexBackward0", "CloneBackward0"}
_MOVES |= {f"SqueezeBackward{i}" for i in range(6)} | {"UnsafeViewBackward0", "ReshapeAliasBackward0"}
_known: dict[type, set[str]] = {}  # of PyTorch's own nodes whose type says it all
_ONCE_CODE = once_differentiable(lambda ctx: None).__code__


def derivative_nodes(loss: Callable[..., Tensor], params: Tree, args: Args, kwargs: Kwargs) -> set[str]:
    """The derivative formulas between the loss and its parameters, as autograd names them: one forward pass."""
    with torch.enable_grad():
        return nodes_of(loss(requiring_grad(params), *args, **kwargs))


def requiring_grad(params: Tree) -> Tree:
    """Clones of the parameters at which a graph begins: what lies in the memory of the originals is not one of them."""
    return tree.map(_requiring_grad, params)


def nodes_of(value: object) -> set[str]:
    """The derivative formulas that a value has been made by, as autograd names them, at every level of torch.func."""
    return _nodes(_roots(value))


def graph_of(value: Tensor) -> set[str]:
    """Those of the innermost level that differentiates it in reverse."""
    return _nodes([root for root in _roots(value) if root is not None][:1])


def cut_backwards(value: Tensor, leaves: list[Tensor]) -> set[str]:
    """The names of the autograd.Functions whose backward gives numbers that autograd cannot differentiate.

    A pullback is linear in λ: where λ depends on something, so does what it gives. One that computes with detached
    tensors, or by an inner ``autograd.grad`` without ``create_graph``, loses that.
    """
    found: set[str] = set()

    def watched(node: Any) -> Callable[[Any, Any], None]:
        def after(grads: Any, λ: Any) -> None:
            depends = any(each is not None and each.requires_grad for each in λ)
            if depends and any(g is not None and not g.requires_grad and bool(g.any()) for g in grads):
                found.update(_names(node))

        return after

    hooks = [node.register_hook(watched(node)) for node in _graph([value.grad_fn]) if hasattr(node, "_forward_cls")]
    if hooks:
        seed = torch.ones_like(value).requires_grad_()
        with torch.enable_grad(), suppress(RuntimeError):  # not differentiable so: the strategy says what it cannot
            torch.autograd.grad(value, leaves, seed, create_graph=True, allow_unused=True)
    for hook in hooks:
        hook.remove()
    return found


def _roots(value: object) -> list[Any]:
    """Where the graph of each level begins, innermost first."""
    if not isinstance(value, Tensor):
        return []  # no loss, which the transform says
    roots = [value.grad_fn]
    while is_functorch_wrapped_tensor(value):
        value = get_unwrapped(value)
        roots.append(value.grad_fn)
    return roots


def _nodes(roots: list[object]) -> set[str]:
    names: set[str] = set()
    for node in _graph(roots):
        names |= _known.get(type(node)) or _names(node)
        names |= _at_zero(node)
    return names - {"AccumulateGrad"}


def _graph(roots: list[Any]) -> Iterator[Any]:
    """Every node that is reached."""
    waiting, seen = roots, set(roots)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)


def _names(node: Any) -> set[str]:
    """The name of a formula, with what its exactness depends on."""
    kind, name = type(node), node.name().removeprefix("torch::autograd::")
    marks = {ONCE: _is_once(node), OWN_JVP: _has_own_jvp(node)}
    if any(marks.values()):
        return {name + mark for mark, found in marks.items() if found}
    # Batch normalisation in eval mode is another formula under the same name.
    found = {name + ("[training]" if getattr(node, "_saved_training", False) else "")}
    if name == "NativeBatchNormBackward0" and _lies_apart(node._saved_weight):
        return {name + "[strided_weight]"}
    if name in _NORMALISATIONS and node._saved_weight is None:
        moved, _, bias = (edge for edge, _ in node.next_functions)
        if bias is not None:  # what moves may come from what is constant (torch.floor)
            found = {name + "[bias_alone]"} | (found if moved is not None else set())
    if name == "EmbeddingBackward0" and node._saved_padding_idx < _NO_ROW:
        return {name + "[padding_idx]"}
    depends = any(hasattr(node, saved) for saved in _TELLING) or name in _NORMALISATIONS
    if kind.__name__ == name and not depends:
        _known[kind] = found
    return found


def _at_zero(node: Any) -> set[str]:
    """The square of a magnitude that is 0 somewhere, or a power whose exponent moves and is: there PyTorch loses the
    second derivative."""
    name = node.name()
    if name == "PowBackward1":  # xʸ
        moves = all(edge is not None for edge, _ in node.next_functions)
        return {name + "[zero_exponent]"} if moves and _has_zeros(node, "_saved_exponent") else set()
    if name not in ("PowBackward0", "MulBackward0"):
        return set()
    inner, *others = (edge for edge, _ in node.next_functions)
    if inner != others[0] if others else node._saved_exponent not in _EVEN:
        return set()
    while inner is not None and inner.name() in _MOVES:
        edges = [edge for edge, _ in inner.next_functions if edge is not None]
        if len(edges) != 1:
            return set()
        inner = edges[0]
    magnitude = "" if inner is None else inner.name()
    is_zero = magnitude in _MAGNITUDES and _has_zeros(inner, _MAGNITUDES[magnitude])
    return {magnitude + "[squared_zero]"} if is_zero else set()


def _has_zeros(node: Any, saved: str) -> bool:
    try:
        value = getattr(node, saved)
    except RuntimeError:  # it is gone: a checkpoint's, or used up
        return False
    value = plain_beneath(value)
    return not isinstance(value, FakeTensor) and bool((value == 0).any())


def _lies_apart(weight: Tensor | None) -> bool:
    """Whether the entries are not one behind the other, as PyTorch's kernel of the backward on the CPU reads them."""
    return weight is not None and weight.device.type == "cpu" and not weight.is_contiguous()


def _is_once(node: object) -> bool:
    """Whether a node is an autograd.Function with a ``once_differentiable`` backward, under a transform too."""
    backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
    for cell in getattr(backward, "__closure__", None) or ():  # torch.func makes a Function that calls the user's
        inner = getattr(cell.cell_contents, "backward", None)
        backward = inner if isinstance(cell.cell_contents, type) and inner is not None else backward
    return getattr(backward, "__code__", None) is _ONCE_CODE


def _has_own_jvp(node: object) -> bool:
    """Whether a node is an autograd.Function with a ``jvp``, under a transform too."""
    functions = [getattr(node, "_forward_cls", None)]
    for cell in getattr(getattr(functions[0], "backward", None), "__closure__", None) or ():
        functions.append(cell.cell_contents)
    return any(isinstance(f, type) and getattr(f, "jvp", Function.jvp) is not Function.jvp for f in functions)


def _requiring_grad(leaf: Tensor) -> Tensor:
    if peek_interpreter_stack() is None:
        return leaf.detach().clone().requires_grad_()
    # Under vmap or grad, autograd's own graph lies beneath the transform's: it starts at a plain tensor.
    return leaf + torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device, requires_grad=True)
