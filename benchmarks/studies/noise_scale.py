"""Does the noise scale predict the best step of every batch size? ε(B), with the true Hessian and by the proxy.

    python -m benchmarks.studies.noise_scale [linear tanh ...] [--train 0 300 3000] [--batches 1000] [--drawn 20000]

256 of scikit-learn's digits are all the data, in float64, after so many steps of SGD at rate 0.5 (least squares: 0.02)
in batches of 64. Two best steps over batches of B are measured, drawn with replacement (all there are for B = 1):

    of the quadratics    Σ g_BᵀG / Σ g_BᵀHg_B, of the quadratic of all samples along each g_B, over ``--drawn`` batches
    of the loss          the ε with the least mean of the loss of all samples at θ − εg_B, over ``--batches`` of them

with their standard errors. Where ε(B) differs from the first it is by the draw of the batches; where that differs from
the second, by the loss, which is no parabola as far as ε reaches. For least squares it is one.
"""

import argparse
from functools import partial

import torch
from torch import func, nn

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.data_sets import noise_scale
from alpha_func.experiment.data import load
from alpha_func.experiment.settings import Experiment

SAMPLES, SIZES = 256, (1, 4, 16, 64)
GRID = 2 ** torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)  # of ε over what the quadratics say
RESAMPLES, AT_ONCE = 200, 50


def squares(outputs, targets):
    """The squared error of a class as a vector."""
    return ((outputs - torch.eye(10, dtype=outputs.dtype)[targets]) ** 2).sum(1).mean()


PROBLEMS = {
    "linear": (lambda: nn.Linear(64, 10), squares, 0.02),
    "logistic": (lambda: nn.Linear(64, 10), nn.CrossEntropyLoss(), 0.5),
    "tanh": (lambda: nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)), nn.CrossEntropyLoss(), 0.5),
}


def drawn(inputs, targets, size, generator):
    """A batch, with replacement."""
    some = torch.randint(len(inputs), (size,), generator=generator)
    return inputs[some], targets[some]


def best(rates, means):
    """The least of the parabola through the three lowest neighbours, exact where the loss is one; NaN at an edge."""
    k = int(means.argmin())
    if k in (0, len(rates) - 1):
        return torch.nan
    (a, b, c), (u, v, w) = rates[k - 1 : k + 2].tolist(), means[k - 1 : k + 2].tolist()
    left, right = (v - u) / (b - a), (w - v) / (c - b)
    return (a + b) / 2 - left * (c - a) / (2 * (right - left))


def measured(loss, params, gradients, rates, whole, generator):
    """The best rate, and its standard error over resamples of the batches."""

    def after(g):
        return torch.stack([loss(tree.axpy(-r, g, params), *whole) for r in rates.unbind()])

    with torch.no_grad():
        table = func.vmap(after, chunk_size=AT_ONCE)(gradients)
    again = [torch.randint(len(table), (len(table),), generator=generator) for _ in range(RESAMPLES)]
    found = torch.tensor([best(rates, table[some].mean(0)) for some in again])
    return best(rates, table.mean(0)), float(found[~found.isnan()].std())


def of_quadratics(gradients, along):
    """The best rate of the mean of the quadratics along gradients, and its standard error."""
    lines = [along(some) for some in gradients]
    slopes, curvatures = (torch.cat([part[i] for part in lines]) for i in (1, 2))
    rate = slopes.sum() / curvatures.sum()
    return float(rate), float((slopes - rate * curvatures).std() / curvatures.mean() / len(slopes) ** 0.5)


def both(loss, along, params, whole, size, counts, generator):
    """The best rates of the quadratics and of the loss over batches of a size, each with its standard error."""
    gradient = func.vmap(partial(func.grad(loss), params), chunk_size=AT_ONCE)
    lines = func.vmap(lambda d: along(params, d, *whole), chunk_size=AT_ONCE)

    def gradients(count):
        some = torch.randint(SAMPLES, (count, size), generator=generator)
        some = torch.arange(SAMPLES)[:, None] if size == 1 else some
        return gradient(whole[0][some], whole[1][some])

    batches, drawn_batches = counts
    pieces = 1 if size == 1 else drawn_batches // batches
    rate, error = of_quadratics((gradients(batches) for _ in range(pieces)), lines)
    of_loss = measured(loss, params, gradients(batches), GRID * rate, whole, generator)
    return (rate, 0.0 if size == 1 else error), of_loss


def study(name, train, *counts):
    """Print the tables of a problem."""
    torch.manual_seed(0)
    data = load(Experiment(data="digits", dtype="float64"))
    make, criterion, lr = PROBLEMS[name]
    loss, params = functional_loss(make().double(), criterion)
    captured, gradient = capture(loss), func.grad(loss)
    whole = data.inputs[:SAMPLES], data.targets[:SAMPLES]
    step, along, g = grad_and_quadratic(captured), quadratic_along(captured), torch.Generator().manual_seed(0)
    done = 0
    for steps in sorted(train):
        for _ in range(done, steps):
            params = tree.axpy(-lr, gradient(params, *drawn(*whole, 64, g)), params)
        done = steps
        found = noise_scale(captured, whole=True, chunk_size=64)(params, whole)
        whole_step = step(params, *whole).quadratic
        print(f"\n{name}, after {steps} steps, loss {float(whole_step.value):.4g}: {found}")
        print(f"{'B':>5}{'ε(B)':>10}{'over the quadratics’':>22}{'over the loss’s':>22}{'proxy over that':>18}")
        for size in SIZES:
            quadratic, of_loss = both(loss, along, params, whole, size, counts, g)
            ours, proxy = found.rate(size).value, found.simple_rate(size).value
            shown = "".join(f"{ours / rate:14.3f} ± {error / rate:.3f}" for rate, error in (quadratic, of_loss))
            print(f"{size:5}{ours:10.4g}{shown}{proxy / of_loss[0]:18.2f}", flush=True)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--train", type=int, nargs="+", default=[0, 300, 3000])
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--drawn", type=int, default=20000)
    options = parser.parse_args()
    for name in options.problems:
        study(name, options.train, options.batches, options.drawn)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
