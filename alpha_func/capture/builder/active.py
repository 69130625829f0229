"""What a value of a program is computed from, and the operators that a derivative passes through."""

from torch import fx

from alpha_func.capture.builder.operands import is_inexact
from alpha_func.capture.builder.values import Operator
from alpha_func.torch_private import OpOverload
from alpha_func.verified.table import table

# Linear or constant by definition, so never in a sample of their own.
_STRUCTURAL = {"aten.lift_fresh_copy.default", "aten.alias.default", "aten.contiguous.default"}


_TRUSTED = ("exact", "nan")  # a nan at a singular sample is not a number that could be taken for the derivative


# Their outputs depend on no value of their inputs, or are declared not to.
_CONSTANT = {"detach", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"}


_CONSTANT |= {"new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "bernoulli"}


def unverified_operators(graph: fx.Graph, params: int, strategy: str = "reverse_over_reverse") -> list[str]:
    """The operators of ``graph`` that a derivative in the first ``params`` inputs passes through, and that have not
    been verified under a strategy; under ``forward_over_forward``, those whose nested forward derivatives have not.
    """
    known = table("primitive")
    names = dict.fromkeys(operator_name(node) for node in active_nodes(graph, params))
    return [n for n in names if n not in _STRUCTURAL and known.get(n, {}).get(strategy) not in _TRUSTED]


def operator_name(node: fx.Node) -> str:
    """``aten.mm.default``."""
    return str(node.target)


def active_nodes(graph: fx.Graph, params: int) -> list[fx.Node]:
    """The nodes that a derivative in the first ``params`` inputs passes through."""
    nodes = list(graph.nodes)
    active = set(nodes[:params])
    passed = []
    for node in nodes[params:]:
        if node.op != "call_function" or active.isdisjoint(node.all_input_nodes):
            continue
        if is_constant(node.target) or not is_inexact(node):
            continue
        active.add(node)
        if isinstance(node.target, OpOverload):
            passed.append(node)
    return passed


def ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    """The nodes and all that they are computed from."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def is_constant(target: Operator) -> bool:
    """Whether no derivative passes through an operator, whatever its operands."""
    return isinstance(target, OpOverload) and target.overloadpacket.__name__ in _CONSTANT
