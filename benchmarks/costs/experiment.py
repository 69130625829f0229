"""The cost of observing: a recorded step of the default experiment over a step of the same training unobserved.

``python -m benchmarks.costs.experiment`` prints the median of interleaved rounds: each times one run of plain training
(module, criterion, backward, torch.optim.SGD) and one that records every step to a CSV file.
"""

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from alpha_func.experiment.data import load
from alpha_func.experiment.minibatches import batches, steps_of
from alpha_func.experiment.settings import Experiment, network
from alpha_func.experiment.training import observe
from alpha_func.observer.loggers import CSVLog

ROUNDS, EPOCHS = 5, 100


def main() -> None:
    """Print the ratio and its spread."""
    torch.set_num_threads(2)
    experiment = Experiment(epochs=EPOCHS)
    data = load(experiment)

    def plain() -> None:
        module = network(experiment, 10, 1)
        optimizer = torch.optim.SGD(module.parameters(), lr=experiment.lr)
        for batch in batches(experiment, data):
            optimizer.zero_grad()
            data.criterion(module(batch.inputs), batch.targets).backward()
            optimizer.step()

    def observed() -> None:
        module = network(experiment, 10, 1)
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(CSVLog(Path(folder) / "steps.csv")) as log,
        ):
            for record, _ in observe(experiment, data, module):
                log(record)

    plain(), observed()  # warm up
    ratios, per_step = [], []
    for _ in range(ROUNDS):
        seconds = []
        for work in (plain, observed):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[1] / seconds[0])
        per_step.append(seconds[0] / steps_of(experiment, data))
    low, *_, high = sorted(ratios)
    print(f"plain step           {statistics.median(per_step) * 1e6:.0f} µs")
    print(f"recorded / plain     {statistics.median(ratios):.2f}  (from {low:.2f} to {high:.2f}, {ROUNDS} rounds)")


if __name__ == "__main__":
    main()
