"""Does the noise scale predict the best step of every batch size? ε(B), with the true Hessian and by the proxy.

    python -m benchmarks.studies.noise_scale [linear tanh ...] [--train 0 300 3000] [--batches 1000]

256 of scikit-learn's digits are all the data, in float64, after so many steps of SGD at rate 0.5 (least squares: 0.02)
in batches of 64. Measured: the ε with the least mean, over so many batches of B (drawn with replacement; all there are
for B = 1), of the loss of all samples at θ − εg_B, with its bootstrap error over these batches. Beside it, what the
quadratics along these very g_B say, Σ g_BᵀG / Σ g_BᵀHg_B: where ε(B) differs from that it is by the draw of the
batches, and where that differs from the measured one, by the loss, which is no parabola as far as ε reaches. For least
squares it is one.
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


def study(name, train, batches):
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
        print(f"{'B':>5}{'ε(B)':>10}{'of the drawn':>14}{'measured':>20}{'ε(B) over it':>14}{'proxy over it':>15}")
        for size in SIZES:
            some = torch.randint(SAMPLES, (batches, size), generator=g)
            some = torch.arange(SAMPLES)[:, None] if size == 1 else some
            gradients = func.vmap(partial(gradient, params), chunk_size=AT_ONCE)(whole[0][some], whole[1][some])
            lines = func.vmap(lambda d, p: along(p, d, *whole), (0, None), chunk_size=AT_ONCE)(gradients, params)
            of_drawn = float(lines.slope.sum() / lines.curvature.sum())
            rate, error = measured(loss, params, gradients, GRID * of_drawn, whole, g)
            ours, proxy = found.rate(size).value, found.simple_rate(size).value
            held = f"{rate:12.4g} ± {error:<5.2g}{ours / rate:14.2f}{proxy / rate:15.2f}"
            print(f"{size:5}{ours:10.4g}{of_drawn:14.4g}{held}", flush=True)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--train", type=int, nargs="+", default=[0, 300, 3000])
    parser.add_argument("--batches", type=int, default=1000)
    options = parser.parse_args()
    for name in options.problems:
        study(name, options.train, options.batches)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
