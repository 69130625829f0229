"""Full-batch training by step rules against the best constant rate: the loss after so many steps.

    python -m benchmarks.studies.step_rules [--steps 1500] [--hidden 32 32] [--loss mse] [--activation relu]

Roulet et al. (2024): greedy steps win early and lose late, and CDAT with σ near 2 beats the best constant rate. The
data is scikit-learn's digits, standardised, all 1797 at every step; float32, plain gradient descent. Constant rates are
a sweep by factors of √2 up to where training diverges; the best has the least loss at the end.
"""

import argparse
import math

import torch

from alpha_func import grad_and_quadratic, tree
from alpha_func.experiment.data import load
from alpha_func.experiment.settings import ACTIVATIONS, Experiment, network
from alpha_func.experiment.training import training_loss
from alpha_func.losses import functional_loss
from alpha_func.step_rules import StepRule, armijo, cdat, damped, greedy, pal, polyak, trusted

RULES = {
    "greedy": greedy(),
    "damped(0.5)": damped(0.5),
    "cdat(1.8)": cdat(1.8),
    "cdat(2)": cdat(2.0),
    "cdat(2.2)": cdat(2.2),
    "cdat(2, beta=0.9)": cdat(2.0, beta=0.9),
    "polyak": polyak(),
    "pal": pal(),
    "armijo": armijo(first=16.0),
    "trusted(greedy)": trusted(greedy()),
}
RATES = [2 ** (k / 2) for k in range(-6, 7)]
SHOWN = (0.1, 0.5, 1.0)  # of the run


def run(step, params, batch, choose, steps):
    """The loss after each share of the steps in SHOWN, and the median step of the second half."""
    at, losses, alphas = {round(share * steps) for share in SHOWN}, [], []
    for k in range(steps + 1):
        _, d, quadratic = step(params, *batch)
        if k in at:
            losses.append(float(quadratic.value))
        alpha = choose(quadratic)
        alphas.append(float(alpha))
        params = tree.axpy(alpha, d, params)
    return losses, sorted(alphas[steps // 2 :])[steps // 4]


def by_rule(rule: StepRule):
    """Choose by a rule."""
    state = rule.init()
    before = []

    def choose(quadratic):
        nonlocal state
        ratio = math.nan
        if before:  # the full batch's loss at this step is the last one's after its step
            last, alpha = before
            ratio = last.gain_ratio(quadratic.value, alpha)
        alpha, state = rule.update(quadratic, state, ratio)
        before[:] = [quadratic, alpha]
        return alpha

    return choose


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 32])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--loss", default="mse", choices=["mse", "cross-entropy"])
    parser.add_argument("--activation", default="relu", choices=ACTIVATIONS)
    options = parser.parse_args()
    experiment = Experiment(
        data=options.data,
        hidden=tuple(options.hidden),
        activation=options.activation,
        loss=options.loss,
        seed=options.seed,
    )
    data = load(experiment)
    module = network(experiment, data.inputs.shape[1], data.outputs)
    step = grad_and_quadratic(training_loss(experiment, data, module))
    params, batch = functional_loss(module, data.criterion)[1], (data.inputs, data.targets)
    print(
        f"{'':24}" + "".join(f"  after {round(share * options.steps):5}" for share in SHOWN) + "  median rate, 2nd half"
    )
    found = {}
    for rate in RATES:
        found[f"constant {rate:.3g}"] = run(step, params, batch, lambda quadratic, rate=rate: rate, options.steps)
    for name, rule in RULES.items():
        found[name] = run(step, params, batch, by_rule(rule), options.steps)
    for name, (losses, rate) in found.items():
        print(f"{name:24}" + "".join(f"  {loss:11.5f}" for loss in losses) + f"  {rate:.4g}", flush=True)
    constant = {name: losses[-1] for name, (losses, _) in found.items() if name.startswith("constant")}
    finite = {name: loss for name, loss in constant.items() if math.isfinite(loss)}
    best = min(finite, key=finite.get)
    print(f"best constant rate: {best}, {finite[best]:.5f}; cdat(2): {found['cdat(2)'][0][-1]:.5f}; greedy: ", end="")
    print(f"{found['greedy'][0][-1]:.5f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
