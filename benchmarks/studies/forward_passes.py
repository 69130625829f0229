"""α* by forward passes: the error against the probe's size, and what measuring changes in a training loop.

    python -m benchmarks.studies.forward_passes [model ...] [--points 5]

GeN (Bu and Xu 2025), PAL (Mutschler and Zell 2020), critical sharpness (Kalra et al. 2026) and ``quadratic_along``
captured, each in float32 against double backward in float64. Probes are multiples of α*, which a user does not know.
Second, one measurement by each protocol within a loop of AdamW with BatchNorm and dropout: which of the loop's
parameters, buffers, optimizer state and random numbers it leaves other than they were.
"""

import argparse
import copy
import math
import statistics

import torch
from torch import nn

from alpha_func import Observer, capture, functional_loss, quadratic_along
from benchmarks.forward_ways import along, critical_rate, gen, pal
from benchmarks.problems import Problem, draw_points, truths
from benchmarks.trials import case_of

PROBES = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)


def errors(model, count):
    """The median relative error of α* for each way and probe; a row each."""
    case = case_of(model, small=True)
    points = draw_points(case, count)
    expected = truths(case, points)
    problem = Problem(case, points, "cpu", torch.float32)
    captured = quadratic_along(capture(functional_loss(problem.module, problem.criterion)[0]))
    found = {name: {p: [] for p in PROBES} for name in ("GeN", "PAL", "critical sharpness")}
    ours, looks = [], []
    for point, truth in zip(problem.points, expected, strict=True):
        alpha, h = -truth.slope / truth.curvature, along(problem, point)
        ours.append(abs(float(captured(point.params, point.direction, *point.batch).alpha) / alpha - 1))
        for share in PROBES:
            p, seen = share * abs(alpha), []
            slope, curvature = gen(h, p)
            found["GeN"][share].append(error(-slope, curvature, alpha))
            found["PAL"][share].append(error(-truth.slope, pal(h, truth.slope, h(0.0), p), alpha))
            rate = critical_rate(lambda a, h=h, seen=seen: seen.append(a) or h(a), p)
            found["critical sharpness"][share].append(abs(rate / 2 / alpha - 1))
            looks.append(len(seen))
    print(f"\n{model}: median relative error of α* over {count} batches, by the probe as a share of α*")
    print(f"{'':28}" + "".join(f"{p:>9g}" for p in PROBES))
    for name, by_probe in found.items():
        print(f"{name:28}" + "".join(f"{statistics.median(by_probe[p]):9.1e}" for p in PROBES))
    print(f"{'quadratic_along captured':28}{statistics.median(ours):9.1e}")
    print(f"forward passes: GeN 3, PAL 1 beside the gradient's, critical sharpness {min(looks)} to {max(looks)}")


def error(numerator, denominator, alpha):
    """Relative, of a quotient."""
    return abs(numerator / denominator / alpha - 1) if denominator else math.inf


def loop():
    """A net with buffers and draws under AdamW, at its first step: gradients are there, the step is to come."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x, y, criterion = torch.randn(32, 8), torch.randint(3, (32,)), nn.CrossEntropyLoss()
    return net, optimizer, criterion, x, y


@torch.no_grad()
def gen_measures(net, optimizer, criterion, x, y):
    """GeN's protocol: step to see the step; losses at θ − d, θ + d and θ; θ put back, the optimizer not."""
    theta = [p.clone() for p in net.parameters()]
    optimizer.step()
    steps = [p - q for p, q in zip(net.parameters(), theta, strict=True)]
    for share in (-1.0, 1.0, 0.0):
        for p, q, d in zip(net.parameters(), theta, steps, strict=True):
            p.copy_(q + share * d)
        criterion(net(x), y)


@torch.no_grad()
def pal_measures(net, optimizer, criterion, x, y):
    """PAL's: add μ along d in place, look, and go on from there; here back to where it began."""
    steps = [-p.grad for p in net.parameters()]
    norm = math.sqrt(sum(float(d.square().sum()) for d in steps))
    for share in (0.1, -0.1):
        for p, d in zip(net.parameters(), steps, strict=True):
            p.add_(share * d / norm)
        if share > 0:
            criterion(net(x), y)


@torch.no_grad()
def critical_measures(net, optimizer, criterion, x, y):
    """Critical sharpness': a copy of θ, the step from outside of the optimizer, a loss for each rate tried."""
    theta = [p.clone() for p in net.parameters()]
    for rate in (0.01, 0.02, 0.04, 0.03):
        for p, q in zip(net.parameters(), theta, strict=True):
            p.copy_(q - rate * p.grad)
        criterion(net(x), y)
    for p, q in zip(net.parameters(), theta, strict=True):
        p.copy_(q)


PROTOCOLS = {"GeN": gen_measures, "PAL": pal_measures, "critical sharpness": critical_measures, "Observer": None}


def after_a_step(measure):
    """The loop after its first step, measured before it or not."""
    net, optimizer, criterion, x, y = loop()
    if measure is None:
        observer = Observer(net, criterion, optimizer)
    criterion(net(x), y).backward()
    if measure is None:
        observer.batch(x, y)
    elif measure:
        measure(net, optimizer, criterion, x, y)
    optimizer.step()
    return net, optimizer, torch.get_rng_state()


def kept(optimizer):
    """What AdamW remembers: how many steps, and its running mean of gradients."""
    states = list(optimizer.state.values())
    return int(states[0]["step"]), torch.cat([state["exp_avg"].flatten() for state in states])


def changes():
    """What differs after the step from the same loop that nobody measured."""
    plain, plain_optimizer, plain_rng = after_a_step(False)
    print("\nafter one step of AdamW, against the loop that nobody measured:")
    for name, measure in PROTOCOLS.items():
        net, optimizer, rng = after_a_step(measure)
        said = []
        pairs = zip(net.parameters(), plain.parameters(), strict=True)
        moved = max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)
        if moved:
            said.append(f"parameters by {moved:.1e}")
        steps, moments = kept(optimizer)
        plain_steps, plain_moments = kept(plain_optimizer)
        if steps != plain_steps:
            said.append(f"the optimizer counts {steps} steps")
        if not moments.equal(plain_moments):
            said.append(f"its mean of gradients is {float(moments.norm() / plain_moments.norm()):.2g} times as long")
        ours, theirs = copy.deepcopy(net.state_dict()), plain.state_dict()
        buffers = [key for key in ours if key not in dict(net.named_parameters()) and not ours[key].equal(theirs[key])]
        if buffers:
            said.append(f"buffers {', '.join(buffers)}")
        if not torch.equal(rng, plain_rng):
            said.append("the global generator")
        print(f"{name:20} {'; '.join(said) or 'nothing'}")


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["10-5-1", "mlp", "gpt softmax"])
    parser.add_argument("--points", type=int, default=5)
    options = parser.parse_args()
    changes()
    for model in options.models:
        errors(model, options.points)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
