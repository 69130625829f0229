"""α* of the whole data set while a network trains on many processes, each with its shard of the data.

    torchrun --nproc-per-node 2 examples/data_parallel.py [--steps 60] [--every 10] [--csv alpha.csv]

The network learns what another one, fixed and random, answers with noise. Each process holds every other example, takes
its half of each batch of 64, and DistributedDataParallel averages the gradients. Every tenth step is a line: the loss
of the batch, α* of the batch along −g, whose own gradient g is, α* along the same −g of all examples of all processes,
and the learning rate. The two α* differ by the bias and the noise of a batch. On one machine or many the reduction is
of a few numbers; without torchrun there is one process, and the same numbers.
"""

import argparse
import csv
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alpha_func import capture, functional_loss
from alpha_func.data_sets import data_parallel_quadratic

EXAMPLES, FEATURES, BATCH, LR = 4096, 20, 64, 0.05
COLUMNS = ("step", "loss", "alpha_batch", "alpha_all", "lr")


def network(width: int) -> nn.Sequential:
    """FEATURES-width-width-1 with tanh."""
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    ).double()


def main() -> None:
    """Train, and print a line at every ``--every``-th step, on the first process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--csv", help="a file for the lines")
    options = parser.parse_args()

    timeout = timedelta(minutes=2)  # a process that dies or hangs is an error on the others after that
    if "RANK" in os.environ:  # torchrun says who is who
        dist.init_process_group("gloo", timeout=timeout)
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    rank, ranks = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)  # the same weights and data everywhere
    module, teacher = network(32), network(8)
    inputs = torch.randn(EXAMPLES, FEATURES, dtype=torch.float64)
    with torch.no_grad():
        targets = 3 * teacher(inputs) + 0.5 * torch.randn(EXAMPLES, 1, dtype=torch.float64)
    # Example i is process i mod ranks's: the global batches are the same however many processes there are.
    mine_x, mine_y = inputs[rank::ranks], targets[rank::ranks]

    model = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    criterion = nn.MSELoss()
    loss, _ = functional_loss(model, criterion)
    over_ranks = data_parallel_quadratic(capture(loss))

    rows = []
    for step in range(options.steps):
        begin = step * BATCH % EXAMPLES
        x, y = (all_[begin : begin + BATCH][(rank - begin) % ranks :: ranks] for all_ in (inputs, targets))
        optimizer.zero_grad()
        # DistributedDataParallel averages over processes; the weight makes that the mean over examples.
        (criterion(model(x), y) * (len(x) * ranks / BATCH)).backward()
        if step % options.every == 0:
            params = {name: p.detach() for name, p in module.named_parameters()}
            direction = {name: -p.grad for name, p in module.named_parameters()}
            batch = over_ranks(params, direction, [(x, y)])
            everything = over_ranks(params, direction, zip(mine_x.split(512), mine_y.split(512), strict=True))
            rows.append((step, float(batch.value), float(batch.alpha), float(everything.alpha), LR))
            if rank == 0:
                if step == 0:
                    print(("{:>5}" + "{:>13}" * 4).format(*COLUMNS))
                print(("{:5d}" + "{:13.5g}" * 4).format(*rows[-1]), flush=True)
        optimizer.step()

    if options.csv and rank == 0:
        with open(options.csv, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
