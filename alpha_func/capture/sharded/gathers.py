"""Gathers written into a finished program: from whole parameters and directions to this rank's shards of them.

It is the last of the passes. Earlier ones write what is the same but once, where a gather may be done again for a use
that comes much later (a tied embedding's); and they write over memory that is done with, where what a collective
returns may be in use elsewhere (``wait_tensor`` gives back its operand's memory, which its schema does not say).

    stretch    uses of an input that lie together: it is gathered once for them, with what views or copies it
    bundle     stretches that are whole at the same time anyway, a layer's weight, bias and their directions: gathered
               by one collective, at the first use, and freed after the last
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from alpha_func.capture.builder.builder import fake_mode, is_impure
from alpha_func.capture.running.reusing import memory_of
from alpha_func.capture.sharded.collectives import Chain, emit
from alpha_func.shards import Layout

aten = torch.ops.aten

_APART = 4  # first uses of others in between, from which on an input is gathered again and not kept
_LITTLE = 64  # a bundle so many times smaller than the largest is gathered with the next
_COPIES = {aten.clone.default, aten._to_copy.default}


@dataclass
class Stretch:
    """Uses of an input that lie together: the source, what uses it, and where the first and the last of those are."""

    source: fx.Node
    users: list[fx.Node]
    first: int
    last: int


@dataclass
class Bundle:
    """Stretches that are gathered together."""

    stretches: list[Stretch]

    @property
    def first(self) -> int:
        """Where the first of them is used."""
        return min(each.first for each in self.stretches)

    @property
    def last(self) -> int:
        """Where the last of them is."""
        return max(each.last for each in self.stretches)

    @property
    def size(self) -> int:
        """How many numbers are gathered."""
        return sum(each.source.meta["val"].numel() for each in self.stretches)


class Gathered:
    """A program of this rank's shards.

    Args:
        program: finished, of whole inputs, with fake tensors in ``meta["val"]``; it is changed.
        layouts: of each of its inputs; None where that is whole.
        directions: the last so many inputs are directions of the first ones, and are gathered with them.
        ahead: how many bundles before its first use a gather begins: so many more are whole at a time.
        dtype: what floating shards are sent as; None: their own.

    Attributes:
        program: the program.
        order: of its gathers, as text that is the same in every process that gathers alike.
    """

    def __init__(
        self,
        program: fx.GraphModule,
        layouts: Sequence[Layout | None],
        *,
        directions: int = 0,
        ahead: int = 0,
        dtype: torch.dtype | None = None,
    ):
        nodes = list(program.graph.nodes)
        inputs = program.graph.find_nodes(op="placeholder")
        places = {node: place for node, place in zip(inputs, layouts, strict=True) if place is not None}
        family = _family(nodes, places)
        of = {d: θ for θ, d in zip(inputs, inputs[len(inputs) - directions :], strict=False)} if directions else {}
        bundles = _bundles(_stretches(nodes, places, family), of)
        mode, traces = fake_mode(program), dict[Layout, fx.GraphModule]()
        for place in places.values():
            if place not in traces:
                traces[place] = _traced(place, mode, dtype)
        batches = [[Chain(each.source, traces[places[each.source]]) for each in bundle.stretches] for bundle in bundles]
        begin = [nodes[bundles[max(i - ahead, 0)].first] for i in range(len(bundles))]
        for chains, node in zip(batches, begin, strict=True):
            emit(program.graph, chains, node, range(1))
        for chains, bundle in zip(batches, bundles, strict=True):
            emit(program.graph, chains, nodes[bundle.first], range(1, 1 + max(chain.stages for chain in chains)))
        for chains, bundle in zip(batches, bundles, strict=True):
            for chain, stretch in zip(chains, bundle.stretches, strict=True):
                _give(program.graph, stretch, chain.whole, family, nodes[bundle.first])
        program.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_impure(node.target))
        program.graph.lint()
        program.recompile()
        self.program = program
        number = {node: i for i, node in enumerate(inputs)}
        self.order = f"{ahead} {dtype} " + "; ".join(
            ", ".join(_described(number[each.source], places[each.source]) for each in bundle.stretches)
            for bundle in bundles
        )


def _family(nodes: list[fx.Node], places: dict[fx.Node, Layout]) -> dict[fx.Node, fx.Node]:
    """What is a view or a copy of one sharded input alone, and of which; that input itself too."""
    memory = memory_of(nodes)
    family = {node: node for node in places}
    for node in nodes:
        sources = {family.get(operand) for operand in node.all_input_nodes}
        keeps = memory[node] != {node} or node.target in _COPIES
        if node.op == "call_function" and keeps and not is_impure(node.target) and len(sources) == 1:
            (source,) = sources
            if source is not None:
                family[node] = source
    return family


def _stretches(nodes: list[fx.Node], places: dict[fx.Node, Layout], family: dict[fx.Node, fx.Node]) -> list[Stretch]:
    uses: dict[fx.Node, list[int]] = {node: [] for node in places}
    for i, node in enumerate(nodes):
        for source in {family[operand] for operand in node.all_input_nodes if operand in family}:
            if family.get(node) is not source:
                uses[source].append(i)
    firsts = sorted(at[0] for at in uses.values() if at)
    found = []
    for source, at in uses.items():
        parts: list[list[int]] = []
        for i in at:
            if parts and sum(parts[-1][-1] < first < i for first in firsts) < _APART:
                parts[-1].append(i)
            else:
                parts.append([i])
        found += [Stretch(source, [nodes[i] for i in part], part[0], part[-1]) for part in parts]
    return sorted(found, key=lambda stretch: stretch.first)


def _bundles(stretches: list[Stretch], of: dict[fx.Node, fx.Node]) -> list[Bundle]:
    """``of``: the parameter of each direction."""
    pairs: dict[tuple[fx.Node, int], Bundle] = {}
    seen: dict[fx.Node, int] = {}
    for stretch in stretches:
        seen[stretch.source] = count = seen.get(stretch.source, 0) + 1
        pairs.setdefault((of.get(stretch.source, stretch.source), count), Bundle([])).stretches.append(stretch)
    found: list[Bundle] = []
    for pair in sorted(pairs.values(), key=lambda pair: pair.first):
        if found and pair.first <= found[-1].last:
            found[-1].stretches += pair.stretches
        else:
            found.append(pair)
    most = max((bundle.size for bundle in found), default=0)
    merged: list[Bundle] = []
    for bundle in found:
        if merged and merged[-1].size * _LITTLE < most:
            merged[-1].stretches += bundle.stretches
        else:
            merged.append(bundle)
    return merged


def _traced(place: Layout, mode: Any, dtype: torch.dtype | None) -> fx.GraphModule:
    """(local) -> whole, in PyTorch's own collectives, whatever the placements are."""

    def gathered(here: Tensor) -> Tensor:
        sent = here.to(place.device)  # from where it is offloaded to
        if dtype is None or not here.is_floating_point():
            return place.whole(sent)
        return place.whole(sent.to(dtype)).to(here.dtype)

    with mode:
        trace = make_fx(gathered)(torch.empty(place.local_shape, dtype=place.dtype, device=place.kept_on))
    trace.graph.eliminate_dead_code()
    return trace


def _give(graph: fx.Graph, stretch: Stretch, whole: fx.Node, family: dict[fx.Node, fx.Node], before: fx.Node) -> None:
    """Let the users of a stretch use what was gathered, through views and copies of their own."""
    own: dict[fx.Node, fx.Node] = {stretch.source: whole}

    def of_whole(node: fx.Node) -> fx.Node:
        if family.get(node) is not stretch.source:
            return node
        if node not in own:
            args, kwargs = fx.map_arg(node.args, of_whole), fx.map_arg(node.kwargs, of_whole)
            with graph.inserting_before(before):
                own[node] = graph.create_node(node.op, node.target, args, kwargs)
            own[node].meta = dict(node.meta)
        return own[node]

    for user in stretch.users:
        user.args, user.kwargs = fx.map_arg(user.args, of_whole), fx.map_arg(user.kwargs, of_whole)


def _described(number: int, place: Layout) -> str:
    return f"{number} {place.shape} {place.dtype} {place.placements}"
