"""Small models under every way in which PyTorch spreads parameters over processes, and the truth about their losses."""

import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

from alpha_func import Observer, capture, functional_loss, quadratic_along
from alpha_func.data_sets import all_reduce


class Net(nn.Module):
    """Blocks of two layers, and a head."""

    def __init__(self, width=6, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, width), nn.Tanh())
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    """Tied embedding, fused attention, LayerNorm."""

    def __init__(self, width=8, depth=2, tokens=11):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def net(dtype=torch.float64, **sizes):
    torch.manual_seed(0)
    x = torch.randn(8, sizes.get("width", 6), dtype=torch.float64).to(dtype)
    y = torch.randn(8, 2, dtype=torch.float64).to(dtype)
    return Net(**sizes).to(dtype), nn.MSELoss(), (x, y)


def transformer(dtype=torch.float64):
    torch.manual_seed(0)
    ids = torch.randint(0, 11, (8, 5))
    return Transformer().to(dtype), cross_entropy, (ids, ids.roll(1, 1))


def sharded(model, **options):
    """Every block by itself, and the rest."""
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def in_parallel(model, mesh):
    for block in model.blocks:
        parallelize_module(block, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return model


def of_frozen_shards(model):
    model.blocks[0].requires_grad_(False)
    return sharded(model)


def mesh_of(*names):
    ranks = dist.get_world_size()
    return init_device_mesh("cpu", (ranks,) if len(names) == 1 else (2, ranks // 2), mesh_dim_names=names)


def on_both(model):
    """Tensor parallel within, FSDP over it."""
    mesh = mesh_of("data", "tensor")
    return sharded(in_parallel(model, mesh["tensor"]), mesh=mesh["data"])


# What places a model, whose model it is, and among how many ranks the batch is split.
PLACEMENTS = {
    "fsdp": (sharded, net, lambda ranks: ranks),
    "transformer": (sharded, transformer, lambda ranks: ranks),
    "one group": (fully_shard, net, lambda ranks: ranks),
    "uneven": (sharded, lambda: net(width=7), lambda ranks: ranks),
    "columns": (lambda m: sharded(m, shard_placement_fn=lambda p: Shard(p.ndim - 1)), net, lambda ranks: ranks),
    "frozen": (of_frozen_shards, net, lambda ranks: ranks),
    "offloaded": (lambda m: sharded(m, offload_policy=CPUOffloadPolicy(pin_memory=False)), net, lambda ranks: ranks),
    "tensor parallel": (lambda m: in_parallel(m, mesh_of("tensor")), net, lambda ranks: 1),
    "hybrid": (lambda m: sharded(m, mesh=mesh_of("replicate", "shard")), net, lambda ranks: ranks),
    "fsdp over tensor parallel": (on_both, net, lambda ranks: 2),
    "float32": (sharded, lambda: net(torch.float32), lambda ranks: ranks),
    "bfloat16": (
        lambda m: sharded(m, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)),
        lambda: net(torch.float32),
        lambda ranks: ranks,
    ),
}


def random_direction(model):
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def placed(direction, params):
    """A direction, each part where its parameter is."""
    return {
        name: distribute_tensor(direction[name], p.device_mesh, p.placements, src_data_rank=None)
        if hasattr(p, "placements")
        else direction[name]
        for name, p in params.items()
    }


def share(batch, data_ranks):
    """The part of this rank of the batch, and how many examples that is."""
    first = dist.get_rank() * data_ranks // dist.get_world_size()
    mine = [part.chunk(data_ranks)[first] for part in batch]
    return mine, float(len(mine[0]))


def truth(model, criterion, batch, direction):
    """By double backward of the whole model."""
    weights = [p for p in model.parameters() if p.requires_grad]
    d = list(direction.values())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        value = criterion(model(batch[0]), batch[1])
    grads = torch.autograd.grad(value, weights, create_graph=True)
    slope = sum((g * part).sum() for g, part in zip(grads, d, strict=True))
    products = torch.autograd.grad(slope, weights)
    return [float(x.detach()) for x in (value, slope, sum((h * p).sum() for h, p in zip(products, d, strict=True)))]


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
    return same, *([told(record) for record in each] for each in (records, expected))


def told(record):
    """A record without its time, and without the loss that the loop did not tell."""
    left_out = ("more", "trained_loss")
    return {n: x for n, x in record._asdict().items() if n not in left_out} | {"ranks": record.more["ranks"]}


def traffic(rank, ranks):
    """Bytes that a call gathers, and the most that are whole at a time; numbers with gathers ahead, and rounded."""
    from alpha_func.capture.sharded.made import Gathering
    from tests.helpers.traffic import Traffic

    found = {}
    for name, (model, criterion, batch), ways in (
        ("transformer", transformer(), {"": Gathering()}),
        (
            "net",
            net(width=8, depth=3),
            {"at use": Gathering(), "ahead": Gathering(ahead=2), "bfloat16": Gathering(dtype=torch.bfloat16)},
        ),
    ):
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
            if way in ("", "at use"):
                found[name] = {"whole": seen.whole, "gathered": seen.gathered, "block": block, "parameters": size}
    return found


def over_batches(rank, ranks):
    """data_parallel_quadratic where one rank has batches of two shapes and the other none; and the truth."""
    from alpha_func.data_sets import data_parallel_quadratic

    model, criterion, batch = net(depth=1)
    direction = random_direction(model)
    expected = truth(model, criterion, batch, direction)
    loss, params = functional_loss(sharded(model), criterion)
    batches = list(zip(*(part.split(5) for part in batch), strict=True)) if rank == 0 else []
    along = data_parallel_quadratic(capture(loss))
    return [float(x) for x in along(params, placed(direction, params), batches)], expected


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
    attempted("whole again", lambda: along(x, y))
    return found


def gone(rank, ranks, how):
    """A rank that leaves between two calls, or comes too late."""
    import os
    import time

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
