"""What α* of sharded parameters costs: bytes sent, bytes whole at a time, and time, beside the loop's own gradient.

    torchrun --nproc-per-node 2 -m benchmarks.costs.sharded [--width 512] [--depth 4] [--ahead 0]

A net of tanh layers under ``fully_shard``, a block each, float32. Bytes that are gathered are what the dispatcher sees;
bytes that are sent are counted on the loopback interface (Linux), of everything on the machine, and in a ring should be
(ranks − 1) times what one rank gathers: of the parameters for a forward, twice that along a direction.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from alpha_func import capture, functional_loss, quadratic_along
from alpha_func.capture.sharded.made import Gathering

REPEATS = 5


def sent():
    """Bytes over the loopback interface so far; 0 where that is not told."""
    if not Path("/proc/net/dev").exists():
        return 0
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def counted(run):
    """Bytes sent and seconds of a function that all ranks run, each the least of a few."""
    found = []
    for _ in range(REPEATS):
        dist.barrier()
        before, begun = sent(), time.perf_counter()
        run()
        dist.barrier()
        found.append((sent() - before, time.perf_counter() - begun))
    return tuple(map(min, zip(*found, strict=True)))


def main():
    """Print the table on the first process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--ahead", type=int, default=0)
    options = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(options.width, options.width), nn.Tanh()) for _ in range(options.depth)]
    model = nn.Sequential(*layers, nn.Linear(options.width, ranks))
    size = sum(p.nbytes for p in model.parameters())
    for layer in layers:
        fully_shard(layer)
    fully_shard(model)
    x, y, criterion = torch.randn(64, options.width), torch.randn(64, ranks), nn.MSELoss()
    loss, params = functional_loss(model, criterion)
    kept = sum(p.to_local().nbytes for p in params.values())
    d = {name: torch.randn_like(p) for name, p in params.items()}
    along = quadratic_along(capture(loss, gathering=Gathering(ahead=options.ahead)))

    def forward():
        with torch.no_grad():
            model(x)
        model.reshard()

    def gradient():
        criterion(model(x), y).backward()
        model.zero_grad()

    first = time.perf_counter()
    along(params, d, x, y)
    first = time.perf_counter() - first
    along(params, d, x, y)
    rows = {"forward": (forward, 1), "gradient": (gradient, 4), "quadratic": (lambda: along(params, d, x, y), 2)}
    found = {name: (*counted(run), times * (ranks - 1) * size) for name, (run, times) in rows.items()}
    if rank == 0:
        print(f"parameters {size} bytes, of which each of {ranks} ranks keeps {kept}; first call {first:.1f} s")
        for name, (bytes_, seconds, formula) in found.items():
            print(f"{name:10} {bytes_:>12} bytes sent, in a ring {formula:>12}   {seconds * 1e3:8.1f} ms")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
