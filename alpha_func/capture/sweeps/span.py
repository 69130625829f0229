"""Value, slopes and curvature in the span of several directions, by one adjoint that they share.

    slopesᵢ = tᵢ of the output        curvatureᵢⱼ = Σ_v ⟨λ_v, D²f_v[tᵢ, tⱼ]⟩        tᵢ the tangents along dᵢ

over the calls v = f(x) of the program. A bilinear call has D²f[s, t] = f(s_x, t_y) + f(t_x, s_y), and

    ⟨λ, f(s_x, t_y)⟩ = ⟨f(·, t_y)ᵀλ, s_x⟩

so that the k pullbacks f(·, t_y)ᵀλ serve all k² pairs. A linear layer costs 2 + 3k products: x·W and λ·Wᵀ, and for
each direction t_x·W + x·D and λ·Dᵀ. One direction costs what a forward sweep does, 5, and two 8.

A function of one number, and a softmax of its row, has ⟨λ, D²f[s, t]⟩ = Σ w·a(s)·a(t), a linear: w is written once, and
w·a(t) for each direction, so that a pair costs an inner product. Any other call writes D²f[s, t] for each pair, by the
rule of f for what that rule wrote (``along``).
"""

from collections.abc import Iterator
from operator import getitem

from torch import fx

from alpha_func.capture.builder.builder import Builder, finished, plus, replay, times
from alpha_func.capture.builder.operands import filled_like, is_complex
from alpha_func.capture.builder.values import Value, leaves, mapped
from alpha_func.capture.derivatives.derivative import first, pullback
from alpha_func.capture.derivatives.rule import Call, rule_of, rules_left_out
from alpha_func.capture.rewrites import LAWS
from alpha_func.capture.sweeps.adjoint import inner
from alpha_func.capture.sweeps.along import Along
from alpha_func.capture.sweeps.sweep import Coefficients, all_zero, backward, extend, forward, operands, started
from alpha_func.torch_private import pytree


def span_program(lowered: fx.GraphModule, parameters: int, count: int) -> fx.GraphModule:
    """The program (*inputs, *directions) -> (value, *slopes, *curvatures), these with i ≤ j, row by row.

    Args:
        lowered: a program of primitive operators (*inputs) -> value, with nothing whole in it.
        parameters: how many of its inputs, the first ones, are parameters.
        count: k; the directions are given one after the other, a tensor for each parameter.
    """
    b, inputs = started(lowered)
    values = forward(b, lowered, inputs)
    adjoints = backward(b, values, parameters, of_inputs=False)
    along: list[Coefficients] = [
        {
            node: b.placeholder(f"direction_{k}_{i}", node.meta["val"])
            for i, node in enumerate(values.inputs[:parameters])
        }
        for k in range(count)
    ]
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    total: dict[tuple[int, int], Value] = dict.fromkeys(pairs)
    for node, call in values.calls.items():
        for one in along:
            extend(b, node, call, one)
        λ = adjoints.get(node)
        if node.target is not getitem and λ is not None:
            for (i, j), part in _bends(b, call, [operands(node, one) for one in along], λ):
                total[min(i, j), max(i, j)] = plus(b, total[min(i, j), max(i, j)], part)
    zero = filled_like(b, values.output, 0)
    slopes = [one.get(values.result) for one in along]
    outputs = (zero if part is None else part for part in (*slopes, *total.values()))
    return finished(b, (values.output, *outputs))


def _bends(b: Builder, call: Call, tangents: list[Value], λ: Value) -> Iterator[tuple[tuple[int, int], Value]]:
    """((i, j), a part of ⟨λ, D²f[tᵢ, tⱼ]⟩) for the pairs where it is not zero."""
    moving = [i for i, t in enumerate(tangents) if not all_zero(t)]
    pairs = [(i, j) for i in moving for j in moving if i <= j]
    rule = rule_of(call)
    squares = rule.diagonal(b, call, λ) if rule and rule.diagonal and _is_real(call, λ) else NotImplemented
    if squares is not NotImplemented:
        w, of = squares
        a = {i: of(tangents[i]) for i in moving}
        yield from (((i, j), inner(b, times(b, w, a[i]), a[j])) for i, j in pairs)
    elif rule is not None and rule.bilinear is not None:
        fewer, more = sorted(rule.bilinear, key=lambda at: _entries(call.args[at]))  # inner products of what has fewer
        yield from _of_a_product(b, call, tangents, λ, fewer, more)
    else:
        yield from (((i, j), _contracted(b, λ, mixed(b, call, tangents[i], tangents[j]))) for i, j in pairs)


def _of_a_product(
    b: Builder, call: Call, tangents: list[Value], λ: Value, x: int, y: int
) -> Iterator[tuple[tuple[int, int], Value]]:
    """⟨f(·, t_y)ᵀλ, s_x⟩, of a call that is bilinear in the operands at x and y, for all ordered pairs."""
    moving = [i for i, t in enumerate(tangents) if t[x] is not None]
    wanted = tuple(at == x or mapped(lambda _: False, arg) for at, arg in enumerate(call.args))
    for j, t in enumerate(tangents if moving else []):
        if t[y] is not None:
            args = (*call.args[:y], t[y], *call.args[y + 1 :])
            back = pullback(b, call._replace(args=args), wanted, λ)[x]
            for i in moving:
                part = inner(b, back, tangents[i][x])
                yield (i, j), times(b, part, 2) if i == j else part


def _is_real(call: Call, λ: Value) -> bool:
    return not any(map(is_complex, leaves((call.args, λ))))


def _entries(x: Value) -> int:
    return x.meta["val"].numel() if isinstance(x, fx.Node) else 1


def _contracted(b: Builder, λ: Value, bends: Value) -> Value:
    pairs = zip(λ, bends, strict=True) if isinstance(λ, list) else [(λ, bends)]
    return plus(b, *(inner(b, adjoint, bend) for adjoint, bend in pairs))


def mixed(b: Builder, call: Call, s: Value, t: Value) -> Value:
    """D²f[s, t], for each output of a call; ``s`` and ``t`` have the nesting of its operands.

    It is written once for each kind of call, in a program of its own: there the operands, the value and s are
    independent, whatever they share in the program around.
    """
    whole = call.args, call.kwargs, call.value, s, t
    parts, spec = pytree.tree_flatten(whole, is_leaf=lambda x: x is None)
    where = [i for i, leaf in enumerate(parts) if isinstance(leaf, fx.Node)]
    vals = [parts[i].meta["val"] for i in where]
    kinds = tuple((i, str(val), str(pytree.tree_map(_layout, val))) for i, val in zip(where, vals, strict=True))
    rest = repr([leaf for i, leaf in enumerate(parts) if i not in where])
    left_out = rules_left_out(), LAWS.left_out()
    key = (mixed, call.target, kinds, rest, str(spec), left_out)
    if key not in b.traces:
        own = Builder(LAWS, b.mode)
        own.traces = b.traces
        for i, val in zip(where, vals, strict=True):
            parts[i] = own.placeholder(f"operand_{i}", val)
        args, kwargs, value, s_, t_ = pytree.tree_unflatten(parts, spec)
        alone = Call(call.target, args, kwargs, value)
        known = {x: d for x, d in zip(pytree.tree_leaves(args), leaves(t_), strict=True) if isinstance(x, fx.Node)}
        known[value] = first(own, alone, t_)
        b.traces[key] = finished(own, Along(own, known)(first(own, alone, s_)))
        parts, _ = pytree.tree_flatten(whole, is_leaf=lambda x: x is None)
    return replay(b.traces[key], [parts[i] for i in where], b)


def _layout(val: Value) -> Value:
    return (val.shape, val.stride(), val.dtype, val.device) if hasattr(val, "stride") else val
