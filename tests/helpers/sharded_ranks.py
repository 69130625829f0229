"""What each rank of a test with sharded parameters does, and finds."""

import copy
import os
import time
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from alpha_func import Observer, capture, functional_loss, optimal_alpha, quadratic_along
from alpha_func.capture import Gathering
from alpha_func.capture.sharded.made import Made
from alpha_func.data_sets import accumulate, all_reduce, data_parallel_quadratic, microbatched
from tests.helpers import purity
from tests.helpers.placements import (
    PLACEMENTS,
    mesh_of,
    net,
    placed,
    random_direction,
    sharded,
    share,
    transformer,
    truth,
)
from tests.helpers.traffic import Traffic
from tests.helpers.wrong_rules import plant


def watch():
    """From here on a call of the library that changes something fails."""
    for kind, name in purity.CALLS:
        method = getattr(kind, name)
        if not hasattr(method, "__wrapped__"):
            setattr(kind, name, purity.watched(method))


def quadratics(rank, ranks, names):
    """Of each placement: the quadratic of the batches of all ranks at three calls, and the truth."""
    found = {}
    for name in names:
        place, made, split = PLACEMENTS[name]
        model, criterion, batch = made()
        whole = copy.deepcopy(model)
        model = place(model)
        loss, params = functional_loss(model, criterion)
        direction = {n: part for n, part in random_direction(whole).items() if n in params}
        for n, p in whole.named_parameters():
            p.requires_grad_(n in params)
        along = quadratic_along(capture(loss, strict=True))
        mine, weight = share(batch, split(ranks))
        watch()
        calls = [all_reduce(along(params, placed(direction, params), *mine), weight) for _ in range(3)]
        found[name] = [[float(x) for x in call] for call in calls], truth(whole, criterion, batch, direction)
    return found


def trained(place, observe, *, clip_at=2, steps=4):
    """Final parameters and optimizer state, whole, and the records of a loop whose gradient is clipped at one step."""
    model, criterion, batch = net()
    model = place(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    observer = Observer(model, criterion, optimizer, every=2) if observe else None
    mine, _ = share(batch, 1 if place is whole_of_it else dist.get_world_size())
    records = []
    for step in range(steps):
        model.eval()
        with torch.no_grad():
            model(mine[0])  # which leaves the root's parameters whole
        model.train()
        optimizer.zero_grad()
        criterion(model(mine[0]), mine[1]).backward()
        if step == clip_at:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        if observer is not None:
            observer.batch(*mine)
        optimizer.step()
        if observer is not None and step % 2 == 0:
            records.append(observer.last)
    state = [leaf for p in model.parameters() for leaf in (p, *optimizer.state[p].values())]
    return [leaf.full_tensor() if hasattr(leaf, "full_tensor") else leaf for leaf in state], records


def whole_of_it(model):
    return model


def observed(rank, ranks):
    """The records of a sharded loop and of a whole one, and whether the former left the training as it was."""
    with_observer, records = trained(sharded, True)
    without, _ = trained(sharded, False)
    _, expected = trained(whole_of_it, True)
    same = all(torch.equal(a, b) for a, b in zip(with_observer, without, strict=True))
    return same, *([told(record) for record in each] for each in (records, expected)), odd_steps(rank)


def odd_steps(rank):
    """Of a loop in bfloat16 whether each step's record agrees; None where the ranks handed over batches otherwise."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model, criterion, (x, y) = net(torch.float32, depth=1)
    model = sharded(model, mp_policy=policy)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    found = []
    with Observer(model, criterion, optimizer) as observer:
        for batches in ([1, 1], [1, 2], [0, 1], [1, 1]):
            optimizer.zero_grad()
            criterion(model(x).float(), y).backward()
            for _ in range(batches[rank]):
                observer.batch(x, y)
            before = observer.last
            optimizer.step()
            found.append(None if observer.last is before else observer.last.agrees)
    return found


def told(record):
    """A record without its time, and without the loss that the loop did not tell."""
    left_out = ("more", "trained_loss")
    return {n: x for n, x in record._asdict().items() if n not in left_out} | {"ranks": record.more["ranks"]}


def traffic(rank, ranks, names):
    """Bytes that a call gathers, and the most that are whole at a time; numbers with gathers ahead, and rounded."""
    found = {}
    others = {"ahead": Gathering(ahead=2), "bfloat16": Gathering(dtype=torch.bfloat16)}
    for name in names:
        model, criterion, batch = net(width=8, depth=3) if name == "net" else transformer()
        ways = {"at use": Gathering(), **(others if name == "net" else {})}
        size = 8 * sum(p.numel() for p in model.parameters())
        block = 8 * max(sum(p.numel() for p in block.parameters()) for block in model.blocks)
        direction = random_direction(model)
        loss, params = functional_loss(sharded(model), criterion)
        mine, _ = share(batch, ranks)
        for way, gathering in ways.items():
            along = quadratic_along(capture(loss, gathering=gathering))
            for _ in range(2):
                along(params, placed(direction, params), *mine)
            with Traffic() as seen:
                found[way] = [float(x) for x in along(params, placed(direction, params), *mine)]
            found[f"{way} sent"] = seen.gathered
            if way == "at use":
                found[name] = {"whole": seen.whole, "gathered": seen.gathered, "block": block, "parameters": size}
    return found


def over_batches(rank, ranks):
    """Of all ranks' batches, where one has two of other shapes and the other none, in chunks, summed; and the truth."""
    model, criterion, batch = net(depth=1)
    direction = random_direction(model)
    expected = truth(model, criterion, batch, direction)
    loss, params = functional_loss(sharded(model), criterion)
    batches = list(zip(*(part.split(5) for part in batch), strict=True)) if rank == 0 else []
    captured, d = capture(loss), placed(direction, params)
    mine, weight = share(batch, ranks)
    cut = quadratic_along(microbatched(captured, 2))(params, d, *mine)
    total = accumulate(captured).total(params, d, [[part[:2] for part in mine], [part[2:] for part in mine]])
    found = {
        "data_parallel_quadratic": data_parallel_quadratic(captured)(params, d, batches),
        "microbatched": all_reduce(cut, weight),
        "accumulate": all_reduce(total.result, total.weight),
    }
    with torch.inference_mode():
        alpha = optimal_alpha(captured)(params, d, *batch)  # of the whole batch, on every rank
    return {name: [float(x) for x in q] for name, q in found.items()}, expected, float(alpha)


def one_sided(rank, ranks):
    """What comes of calls in which one rank does otherwise than the other, by name; none may hang."""
    found = {}

    def attempted(name, call):
        try:
            found[name] = [float(x) for x in call()]
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        dist.barrier()

    def of(model, criterion, batch):
        direction = random_direction(model)
        loss, params = functional_loss(sharded(model), criterion)
        along = quadratic_along(capture(loss))
        return lambda *mine: along(params, placed(direction, params), *mine), batch

    along, (x, y) = of(*net(depth=1))
    other, _ = of(*net(depth=1, width=4))
    attempted("whole", lambda: along(x, y))
    attempted("raises", lambda: along(x, y) if rank else along(x[:, :3], y))
    attempted("raises in itself", lambda: along(x, y if rank else None))
    attempted("another order", lambda: along(x, y) if rank else other(x[:, :4], y))
    mine = slice(0, 7) if rank else slice(7, 8)
    attempted("another shape", lambda: all_reduce(along(x[mine], y[mine]), 7.0 if rank else 1.0))
    attempted("another dtype", lambda: along(x, y.float().to(y.dtype if rank else torch.float32)))
    attempted("whole again", lambda: along(x, y))
    return found


def gone(rank, ranks, how):
    """A rank that leaves between two calls, or comes too late."""
    model, criterion, batch = net(depth=1, width=3)
    direction = random_direction(model)
    loss, params = functional_loss(sharded(model), criterion)
    along = quadratic_along(capture(loss))
    along(params, placed(direction, params), *batch)
    if rank == 1:
        os._exit(7) if how == "dies" else time.sleep(25)
        return None
    begun = time.monotonic()
    try:
        along(params, placed(direction, params), *batch)
    except Exception as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begun
    return "no error", 0.0


class LocalWidth(nn.Module):
    """A model that is written for the columns of a rank: it divides by how many there are."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.tanh(self.up(x))
        return self.down(h / h.shape[-1])


def suspected(rank, ranks):
    """What is found of a wrong rule, of operators without forward derivatives, and of a model of local shapes."""
    found = {}
    model, criterion, batch = net(depth=1)
    direction = random_direction(model)
    found["truth"] = truth(model, criterion, batch, direction)
    loss, params = functional_loss(sharded(model), criterion)
    mine, weight = share(batch, ranks)

    def attempted(name, **options):
        along = quadratic_along(capture(loss, **options))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                calls = [all_reduce(along(params, placed(direction, params), *mine), weight) for _ in range(3)]
                found[name] = [[float(x) for x in call] for call in calls]
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
        found[f"{name}, said"] = [str(each.message) for each in said if "captured loss" in str(each.message)]

    def refused(*_):
        raise NotImplementedError

    with pytest.MonkeyPatch.context() as patch:
        plant(patch, second=lambda b, call, tangents: None)
        attempted("wrong rule")
        attempted("wrong rule, strict", strict=True)
        patch.setattr(Made, "line_in_double", refused)
        attempted("wrong rule, by differences", strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Made, "line_in_double", refused)
        attempted("by differences", strict=True)

    model = LocalWidth().double()
    loss, _ = functional_loss(
        parallelize_module(model, mesh_of("tensor"), {"up": ColwiseParallel(), "down": RowwiseParallel()}), criterion
    )
    params = dict(model.named_parameters())
    direction, mine = random_direction(model), [torch.ones(3, 4).double(), torch.ones(3, 2).double()]
    attempted("local width")
    return found
