"""The cost of an ``Observer`` in a training loop: the time of a loop with it over the time of the same loop without.

    python -m benchmarks.costs.observer [net ...] [--every 10] [--optimizers sgd adamw] [--rounds 7] [--backend eager]

A round times blocks of ``every`` steps of two loops that train alike, one of them observed at its first step, in turn;
CPU time of the process, medians of the rounds' ratios. A record is a sweep of five products a linear layer and
a forward pass of one, beside the three of a gradient: at every 10th step some 20 % where products are all the time.
What a first capture takes is not in it, and printed beside.
"""

import argparse
import copy
import statistics
import time

import torch

from alpha_func import Observer
from benchmarks.nets import NETS

GOAL = 0.10
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-3),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-4),
    "adamw wd=0": lambda params: torch.optim.AdamW(params, lr=1e-4, weight_decay=0),
}


class Loop:
    """A training loop, with an observer or without."""

    def __init__(self, net, criterion, batch, optimizer, every=None, backend="eager"):
        self.net, self.criterion, self.batch = copy.deepcopy(net), criterion, batch
        self.optimizer = OPTIMIZERS[optimizer](self.net.parameters())
        self.observer = every and Observer(self.net, criterion, self.optimizer, every=every, backend=backend)

    def steps(self, count):
        """Train so many steps."""
        x, y = self.batch
        for _ in range(count):
            self.optimizer.zero_grad()
            self.criterion(self.net(x), y).backward()
            if self.observer:
                self.observer.batch(x, y)
            self.optimizer.step()


def seconds(loop, steps):
    """The CPU time of so many steps."""
    begun = time.process_time()
    loop.steps(steps)
    return time.process_time() - begun


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("nets", nargs="*", default=["mlp", "gpt"])
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backend", default="eager")
    options = parser.parse_args()
    for name in options.nets:
        for optimizer in options.optimizers:
            torch.manual_seed(0)
            net, criterion, *batch = NETS[name]()
            plain = Loop(net, criterion, batch, optimizer)
            observed = Loop(net, criterion, batch, optimizer, options.every, options.backend)
            seconds(plain, 1)
            begun = time.perf_counter()
            seconds(observed, options.every)
            first = time.perf_counter() - begun
            rounds = [(seconds(plain, options.every), seconds(observed, options.every)) for _ in range(options.rounds)]
            costs = sorted(after / before - 1 for before, after in rounds)
            print(
                f"{name:8} {optimizer:10} every {options.every}: +{statistics.median(costs):.1%} "
                f"(from {costs[0]:.1%} to {costs[-1]:.1%}; goal {GOAL:.0%} at every 10)  "
                f"step {statistics.median(b for b, _ in rounds) / options.every * 1e3:.0f} ms  "
                f"first block, with the capture, {first:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
