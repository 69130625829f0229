"""Does a short probe of α* know a good learning rate? Its suggestion against the best of a sweep, model by optimizer.

    python -m benchmarks.studies.suggest_lr [--steps 300] [--probe 50] [--seeds 3] [--models ...] [--draw-only]

The suggestion: of ``--probe`` steps of the optimizer at its usual rate η₀ (SGD 0.01, AdamW 0.001), each direction d
made of one batch and its slope and curvature measured on the next; α* of their means, −Σs/Σc, times η₀, with the
interval of ``alpha_interval``. The sweep: the same optimizer from the same weights at rates a factor of 2 apart; the
best rate has the least loss on all samples after ``--steps`` steps, the mean over seeds of its logarithm.
suggest_lr.csv and suggest_lr.png are what it found.
"""

import argparse
import copy
import csv
import math
from pathlib import Path

import torch
from torch import nn

from alpha_func import Quadratic, capture, from_optimizer, functional_loss, quadratic_along, tree
from alpha_func.data_sets import alpha_interval
from alpha_func.experiment.data import load
from alpha_func.experiment.settings import Experiment
from benchmarks.nets import GPT, next_token

HERE = Path(__file__).parent
BATCH = 64
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}, 0.01),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, 0.01),
    "adamw": (torch.optim.AdamW, {}, 0.001),
}
RATES = {"sgd": range(-6, 6), "momentum": range(-8, 4), "adamw": range(-12, 1)}  # powers of 2


def digits_mlp():
    """64-32-10, tanh, cross entropy, on digits."""
    data = load(Experiment(data="digits"))
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)), data.criterion, data.inputs, data.targets


def diabetes_mlp():
    """10-16-1, ReLU, squared error, on diabetes."""
    data = load(Experiment(data="diabetes"))
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1)), data.criterion, data.inputs, data.targets


def digits_conv():
    """Two convolutions with ReLU and max-pooling, cross entropy, on digits."""
    data = load(Experiment(data="digits"))
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    return net, data.criterion, data.inputs, data.targets


def tiny_gpt(alphabet=27, width=32, heads=2):
    """Two layers, on sequences of a random Markov chain of letters."""
    g = torch.Generator().manual_seed(7)
    chain = torch.softmax(2.5 * torch.randn(alphabet, alphabet, generator=g), -1)
    letters = torch.randint(alphabet, (1024, 1), generator=g)
    for _ in range(16):
        letters = torch.cat([letters, torch.multinomial(chain[letters[:, -1]], 1, generator=g)], 1)
    return GPT(alphabet, width, heads, 2, 16, explicit=True), next_token, letters[:, :-1], letters[:, 1:]


MODELS = {"digits mlp": digits_mlp, "diabetes mlp": diabetes_mlp, "digits conv": digits_conv, "tiny gpt": tiny_gpt}


def batches(inputs, targets, count, seed):
    """Drawn without replacement, anew for each."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(count):
        some = torch.randperm(len(inputs), generator=g)[:BATCH]
        yield inputs[some], targets[some]


def suggestion(problem, optimizer, probe, seed):
    """The interval of the rate that the pooled held-out α* suggests."""
    net, criterion, inputs, targets = problem
    kind, options, rate = OPTIMIZERS[optimizer]
    loss, params = functional_loss(net, criterion)
    gradient, along = torch.func.grad(loss), quadratic_along(capture(loss))
    init, update = from_optimizer(kind, lr=rate, **options)
    state, found = init(params), []
    *drawn, last = batches(inputs, targets, probe + 1, seed)
    for batch, held_out in zip(drawn, [*drawn[1:], last], strict=True):
        d, state = update(gradient(params, *batch), state, params)
        found.append(along(params, d, *held_out))
        params = tree.add(params, d)
    pooled = Quadratic(*(torch.stack(numbers).double() for numbers in zip(*found, strict=True)))
    return alpha_interval(pooled._replace(slope=pooled.slope / rate, curvature=pooled.curvature / rate**2))


def trained(problem, optimizer, rate, steps, seed):
    """The loss on all samples after training at a rate; inf where it diverged."""
    net, criterion, inputs, targets = problem
    net = copy.deepcopy(net)
    kind, options, _ = OPTIMIZERS[optimizer]
    live = kind(net.parameters(), lr=rate, **options)
    for x, y in batches(inputs, targets, steps, 1000 + seed):
        live.zero_grad()
        value = criterion(net(x), y)
        if not value.isfinite():
            return math.inf
        value.backward()
        live.step()
    with torch.no_grad():
        value = float(criterion(net(inputs), targets))
    return value if math.isfinite(value) else math.inf


def studied(model, optimizer, steps, probe, seeds):
    """The rows of one problem: (rate, log loss) of the sweep, and the suggestions."""
    losses, intervals = {2.0**k: 0.0 for k in RATES[optimizer]}, []
    for seed in range(seeds):
        torch.manual_seed(seed)
        problem = MODELS[model]()
        intervals.append(suggestion(problem, optimizer, probe, seed))
        for rate in losses:
            losses[rate] += math.log(trained(problem, optimizer, rate, steps, seed)) / seeds
    return losses, intervals


def write(folder, rows):
    """suggest_lr.csv."""
    with (folder / "suggest_lr.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "optimizer", "what", "rate", "log_loss", "low", "high"])
        for (model, optimizer), (losses, intervals) in rows.items():
            writer.writerows([model, optimizer, "sweep", f"{r:.6g}", f"{v:.6g}", "", ""] for r, v in losses.items())
            writer.writerows(
                [model, optimizer, "suggested", *(f"{x:.6g}" if x != "" else "" for x in (i.alpha, "", i.low, i.high))]
                for i in intervals
            )


def read(folder):
    """The rows again: sweeps, and (rate, low, high) of each suggestion."""
    found = {}
    with (folder / "suggest_lr.csv").open() as file:
        for row in csv.DictReader(file):
            losses, suggested = found.setdefault((row["model"], row["optimizer"]), ({}, []))
            if row["what"] == "sweep":
                losses[float(row["rate"])] = float(row["log_loss"])
            else:
                suggested.append(tuple(float(row[name]) for name in ("rate", "low", "high")))
    return found


def middle(suggested):
    """The median suggestion, NaN where it is no positive rate."""
    rates = sorted(rate for rate, _, _ in suggested)
    rate = rates[len(rates) // 2]
    return rate if rate > 0 else math.nan


def tell(found):
    """The table, and how many are within a factor of 2."""
    within = 0
    print(f"{'model':14}{'optimizer':11}{'best':>10}{'suggested':>11}{'ratio':>8}{'loss there / best':>19}  intervals")
    for (model, optimizer), (losses, suggested) in found.items():
        best, rate = min(losses, key=losses.get), middle(suggested)
        nearest = min(losses, key=lambda r, rate=rate: abs(math.log(r / rate)) if rate > 0 else math.inf)
        ratio = rate / best
        within += 0.5 <= ratio <= 2
        intervals = " ".join(f"[{low:.2g}, {high:.2g}]" for _, low, high in suggested)
        cost = math.exp(min(losses[nearest] - losses[best], 700.0))
        print(f"{model:14}{optimizer:11}{best:10.4g}{rate:11.4g}{ratio:8.2f}{cost:19.3g}  {intervals}")
    print(f"within a factor of 2 of the best: {within} of {len(found)}")


def draw(found, path):
    """A panel for each problem: the sweep, the best rate, and the suggestions with their intervals."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    models = list(dict.fromkeys(model for model, _ in found))
    figure, axes = plt.subplots(len(models), 3, figsize=(10, 2.4 * len(models)), squeeze=False, layout="constrained")
    for (model, optimizer), (losses, suggested) in found.items():
        axis = axes[models.index(model)][list(OPTIMIZERS).index(optimizer)]
        finite = {rate: math.exp(value) for rate, value in losses.items() if value < 5}
        best = min(losses, key=losses.get)
        axis.loglog(list(finite), list(finite.values()), ".-", color="0.4", label="loss after training")
        axis.loglog(best, math.exp(losses[best]), "o", color="tab:green", label="best of the sweep")
        axis.axvspan(best / 2, best * 2, color="tab:green", alpha=0.12, lw=0)
        for k, (rate, low, high) in enumerate(suggested):
            if rate > 0:
                label = "suggested, with its interval" if k == 0 else None
                axis.axvline(rate, color="tab:red", lw=1, label=label)
                axis.axvspan(max(low, rate / 100), min(high, rate * 100), color="tab:red", alpha=0.08, lw=0)
        bounded = all(math.isfinite(high) for _, _, high in suggested)
        axis.set_title(f"{model}, {optimizer}" + ": no bounded interval" * (not bounded), fontsize=9)
        axis.set_xlim(min(losses) / 1.5, max(losses) * 1.5)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(which="both", labelsize=7)
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    for axis in axes[-1]:
        axis.set_xlabel("learning rate", fontsize=8)
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)


def main():
    """Run, write, tell and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--probe", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--draw-only", action="store_true")
    options = parser.parse_args()
    if not options.draw_only:
        rows = {}
        for model in options.models:
            for optimizer in OPTIMIZERS:
                rows[model, optimizer] = studied(model, optimizer, options.steps, options.probe, options.seeds)
                print(model, optimizer, "done", flush=True)
                write(options.output, rows)
    found = read(options.output)
    tell(found)
    draw(found, options.output / "suggest_lr.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
