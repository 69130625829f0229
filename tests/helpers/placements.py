"""Small models under every way in which PyTorch spreads parameters over processes, and the truth about their losses."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F


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


def of_whole_parameters(model):
    """What is trained is whole on every rank, what is frozen is sharded."""
    model.blocks.requires_grad_(False)
    return in_parallel(model, mesh_of("tensor"))


def with_sharded_outputs(model):
    head = {"head": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)}
    return parallelize_module(in_parallel(model, mesh_of("tensor")), mesh_of("tensor"), head)


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
    "whole beside frozen shards": (of_whole_parameters, lambda: net(depth=1), lambda ranks: 1),
    "sharded outputs": (with_sharded_outputs, lambda: net(depth=1), lambda ranks: 1),
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
