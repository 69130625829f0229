"""α* of a GPT that no process holds whole: fully_shard, AdamW, and the observer of any other loop.

    torchrun --nproc-per-node 2 examples/sharded_gpt.py [--steps 40] [--every 10] [--csv alpha.csv]

Each process keeps its share of every parameter. A record is of the batch of all processes, and the last line of the
table says of how many; the training is bit for bit what it is without the observer.
"""

import argparse

import torch
import torch.distributed as dist
from observe_gpt import GPT, cross_entropy, show, sums  # the model and the task of the example of one process
from torch import nn
from torch.distributed.fsdp import fully_shard

from alpha_func import Observer
from alpha_func.observer.loggers import CSVLog


def main() -> None:
    """Train, and print the table on the first process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--csv", help="keep the records in this file too")
    options = parser.parse_args()

    dist.init_process_group()
    first = dist.get_rank() == 0
    torch.manual_seed(0)  # the same model everywhere
    model = GPT()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)

    torch.manual_seed(1 + dist.get_rank())  # and other batches and masks
    logs = [show, *([CSVLog(options.csv)] if options.csv else [])] if first else []
    if first:
        print(" step    loss         α*        lr      α*·lr  cosine     decay   gain")
    with Observer(model, cross_entropy, optimizer, every=options.every, log=logs) as observer:
        for _ in range(options.steps):
            inputs, targets = sums(64)
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            observer.batch(inputs, targets, loss=loss)
            optimizer.step()
    if first and observer.last is not None:
        print(f"the last is of {observer.last.more['ranks']} processes")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
