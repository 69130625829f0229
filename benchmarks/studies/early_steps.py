"""Who says that α* is not to be trusted? A small GPT under AdamW, from its first steps on.

    python -m benchmarks.studies.early_steps [--steps 10 50 100 150 ...] [--lr 1e-4] [--warm-up 100]

Two layers of width 64 on sequences of a random Markov chain of 65 letters, with PyTorch's own initial weights (of
deviation 1 in the embeddings), batches of 64, the rate warmed up linearly. At each of
these steps, along the step that AdamW is about to take, on its own batch: α* in steps and the decrease it promises; the
gain ratio there and at the step itself; the trust radius at a tenth, by derivatives up to the third and the fifth; and
the best α of the line with its decrease, by a scan of the loss over 97 α from α*/256 to 16α*.
"""

import argparse

import torch

from alpha_func import capture, from_optimizer, functional_loss, tree
from alpha_func.transforms import gain_ratio, taylor_along
from benchmarks.studies.suggest_lr import batches, tiny_gpt

SCAN = 2 ** torch.linspace(-8, 4, 97)


def best_on_line(loss, params, d, quadratic, batch):
    """The α of the least loss, and how much less that is."""
    alphas = SCAN * quadratic.alpha.abs()
    with torch.no_grad():
        losses = torch.stack([loss(tree.axpy(float(a), d, params), *batch) for a in alphas])
    k = int(losses.argmin())
    return float(alphas[k]), float(quadratic.value - losses[k])


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50, 100, 150, 200, 400, 800, 1600])
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--warm-up", type=int, default=100)
    options = parser.parse_args()
    torch.manual_seed(0)
    model, criterion, inputs, targets = tiny_gpt(alphabet=65, width=64, heads=4)
    loss, params = functional_loss(model, criterion)
    captured, gradient = capture(loss), torch.func.grad(loss)
    adam = from_optimizer(torch.optim.AdamW, lr=options.lr)
    state, gain = adam.init(params), gain_ratio(loss)
    third, fifth = taylor_along(captured), taylor_along(captured, order=5)
    print(f"{'step':>5}{'loss':>7}{'α*':>9}{'promises':>10}{'gain at α*':>12}{'gain at 1':>11}{'trust, 3':>10}"
          f"{'trust, 5':>10}{'best α':>9}{'gains':>8}")  # fmt: skip
    for step, batch in enumerate(batches(inputs, targets, max(options.steps) + 1, 0)):
        d, state = adam.update(gradient(params, *batch), state, params)
        d = tree.scale(min((step + 1) / options.warm_up, 1.0), d)
        if step in options.steps:
            q = third(params, d, *batch)
            radii = [line.trust_radius(0.1) for line in (q, fifth(params, d, *batch))]
            q = q.quadratic
            ratios = [float(gain(params, d, q, alpha, *batch)) for alpha in (q.alpha, torch.tensor(1.0))]
            best, gained = best_on_line(loss, params, d, q, batch)
            print(
                f"{step:5}{q.value:7.3f}{q.alpha:9.3g}{q.value - q.minimum:10.3g}{ratios[0]:12.2f}{ratios[1]:11.2f}"
                f"{radii[0]:10.3g}{radii[1]:10.3g}{best:9.3g}{gained:8.3f}",
                flush=True,
            )
        params = tree.add(params, d)


if __name__ == "__main__":
    main()
