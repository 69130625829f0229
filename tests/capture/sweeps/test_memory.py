"""What a program holds at a time."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from alpha_func import capture, functional_loss
from alpha_func.capture.rewrites import CHANNELS_LAST, FUSED, IN_PRIMITIVES, rewrite
from alpha_func.capture.running.reusing import memory_of
from alpha_func.capture.sweeps.adjoint import adjoint_programs
from alpha_func.capture.sweeps.taylor import higher_program, taylor_program
from benchmarks.nets import GPT, next_token


def peak(program):
    """The bytes of the tensors that the program makes, where most are alive: each until its last use, views too."""
    nodes = list(program.graph.nodes)
    memory = memory_of(nodes)
    touched = [{place for x in (node, *node.all_input_nodes) for place in memory[x]} for node in nodes]
    end = {place: i for i, places in enumerate(touched) for place in places}

    def size(place):
        made = place.op == "call_function" and isinstance(place.meta["val"], torch.Tensor)
        return place.meta["val"].nbytes if made and not {"out", "grad_input"} & place.kwargs.keys() else 0

    most = alive = 0
    for i, node in enumerate(nodes):
        alive += size(node) if memory[node] == {node} else 0
        most = max(most, alive)
        alive -= sum(size(place) for place in touched[i] if end[place] == i)
    return most


def mlp(depth, norm):
    sizes = [16] * (depth + 1)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), *([nn.LayerNorm(b)] if norm else []), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(16, 10))


@pytest.mark.parametrize("norm", [False, True])
def test_a_forward_sweep_holds_no_more_for_a_deep_net(norm):
    peaks = []
    for depth in (6, 48):
        loss, params = functional_loss(mlp(depth, norm), nn.CrossEntropyLoss())
        batch = torch.randn(64, 16), torch.randint(10, (64,))
        program = capture(loss).program(params, *batch)
        peaks.append(peak(rewrite(taylor_program(program.graph, len(params)), CHANNELS_LAST, FUSED)))
    assert peaks[1] <= 1.2 * peaks[0]


def test_a_sweep_of_higher_order_holds_no_more_for_a_deep_net():
    peaks = []
    for depth in (3, 12):
        loss, params = functional_loss(mlp(depth, norm=True), nn.CrossEntropyLoss())
        batch = torch.randn(64, 16), torch.randint(10, (64,))
        program = rewrite(capture(loss).program(params, *batch).graph, IN_PRIMITIVES)
        peaks.append(peak(rewrite(higher_program(program, len(params), 3), CHANNELS_LAST, FUSED)))
    assert peaks[1] <= 1.2 * peaks[0]


def wide_mlp():
    sizes = [32] * 13
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers), nn.MSELoss(), (torch.randn(64, 32), torch.randn(64, 32))


def gpt():
    tokens = torch.randint(11, (4, 16))
    return GPT(vocabulary=11, width=32, heads=4, layers=4, context=16), next_token, (tokens, tokens)


# name: (case, bytes of the Taylor program, bytes of the line after the gradient). An activation: 8192 bytes.
PEAKS = {"mlp": (wide_mlp, 6 * 8192, 3 * 8192 + 4), "gpt": (gpt, 254_980, 172_036)}


@pytest.mark.parametrize("name", PEAKS)
def test_a_sweep_holds_what_one_layer_makes(name):
    make, *pinned = PEAKS[name]
    net, criterion, batch = make()
    loss, params = functional_loss(net, criterion)
    program = capture(loss).program(params, *batch)
    programs = (taylor_program(program.graph, len(params)), adjoint_programs(program.graph, len(params)).line)
    assert [peak(rewrite(p, CHANNELS_LAST, FUSED)) for p in programs] == pinned
