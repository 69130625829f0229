"""Does the noise scale predict the best step of every batch size? ε(B), with the true Hessian and by the proxy.

    python -m benchmarks.studies.noise_scale [--train 0 50 300] [--batches 300] [--pieces 1797]

A tanh net 64-32-10 on scikit-learn's digits, cross entropy, float64, after so many steps of SGD at rate 0.5 in batches
of 64. Measured: the ε with the least mean, over so many batches of B (drawn with replacement), of the loss of all
samples at θ − εg_B. Predicted: from the gradients of so many single examples, and the H of all.
"""

import argparse

import torch
from torch import nn

from alpha_func import capture, functional_loss, grad_and_quadratic, tree
from alpha_func.data_sets import noise_scale
from alpha_func.experiment.data import load
from alpha_func.experiment.settings import Experiment

SIZES = (1, 4, 16, 64, 256)
GRID = torch.linspace(-1.5, 1.5, 13)  # of log₂(ε / prediction)


def drawn(inputs, targets, size, generator):
    """A batch, with replacement; all samples where that many are asked for."""
    if size == len(inputs):
        return inputs, targets
    some = torch.randint(len(inputs), (size,), generator=generator)
    return inputs[some], targets[some]


def best_step(loss, params, gradients, around, whole):
    """The least of the parabola through the three lowest points of the grid, in log ε."""
    with torch.no_grad():
        rates = around * 2**GRID
        mean = torch.stack(
            [torch.stack([loss(tree.axpy(-float(r), g, params), *whole) for g in gradients]).mean() for r in rates]
        )
    k = int(mean.argmin().clamp(1, len(GRID) - 2))
    left, middle, right = mean[k - 1 : k + 2]
    offset = float((left - right) / (left - 2 * middle + right) / 2)
    at_edge = int(mean.argmin()) in (0, len(GRID) - 1)
    return float(rates[k] * 2 ** (offset * float(GRID[1] - GRID[0]))), at_edge


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, nargs="+", default=[0, 50, 300])
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--pieces", type=int, default=1797)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = load(Experiment(data="digits", dtype="float64"))
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    loss, params = functional_loss(net, data.criterion)
    captured, gradient = capture(loss), torch.func.grad(loss)
    step, whole = grad_and_quadratic(captured), (data.inputs, data.targets)
    g, done = torch.Generator().manual_seed(0), 0
    for steps in sorted(options.train):
        for _ in range(done, steps):
            params = tree.axpy(0.5, step(params, *drawn(*whole, 64, g)).direction, params)
        done = steps
        all_of_them = options.pieces == len(data.inputs)
        found = noise_scale(captured, whole=all_of_them, chunk_size=64)(params, drawn(*whole, options.pieces, g), whole)
        print(f"\nafter {steps} steps, loss {float(loss(params, *whole).detach()):.4g}: {found}")
        print(f"{'B':>5}{'measured':>11}{'ε(B)':>18}{'off by':>9}{'by the proxy':>18}{'off by':>9}")
        for size in SIZES:
            gradients = [gradient(params, *drawn(*whole, size, g)) for _ in range(options.batches)]
            best, at_edge = best_step(loss, params, gradients, found.rate(size).value, whole)
            ours, proxy = found.rate(size), found.simple_rate(size)
            off = [f"{estimate.value / best:.2f}x" for estimate in (ours, proxy)]
            more = " (edge of the grid)" * at_edge
            print(f"{size:5}{best:11.4g}{ours!s:>18}{off[0]:>9}{proxy!s:>18}{off[1]:>9}{more}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
