"""Which primitive operators have been verified to second order."""

import torch
from torch import fx

_KNOWN_UNVERIFIED = {"aten._ctc_loss", "aten._cdist_forward", "aten._pdist_forward", "aten._euclidean_dist"}


def unverified(graph: fx.Graph, params: int) -> list[str]:
    """The operators of ``graph`` that a derivative in the first ``params`` inputs passes through, unverified ones."""
    found = []
    for node in active_nodes(graph, params):
        name = str(getattr(node.target, "overloadpacket", node.target))
        if name in _KNOWN_UNVERIFIED and name not in found:
            found.append(name)
    return found


def active_nodes(graph: fx.Graph, params: int) -> list[fx.Node]:
    """The nodes that a derivative in the first ``params`` inputs passes through."""
    nodes = list(graph.nodes)
    active = set(nodes[:params])
    passed = []
    for node in nodes[params:]:
        if node.op != "call_function" or active.isdisjoint(node.all_input_nodes):
            continue
        if node.target is torch.ops.aten.detach.default or not _has_derivative(node.meta.get("val")):
            continue
        active.add(node)
        if isinstance(node.target, torch._ops.OpOverload):
            passed.append(node)
    return passed


def _has_derivative(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_derivative(part) for part in value)
    return not isinstance(value, torch.Tensor) or value.is_floating_point() or value.is_complex()
