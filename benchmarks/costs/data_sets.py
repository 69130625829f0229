"""What a whole data set costs: accumulate over its batches' own quadratics, and every example's quadratic in gradients.

    python -m benchmarks.costs.data_sets [net ...] [--rounds 15] [--chunk-sizes 32 64 ...]

accumulate on a captured loss, over full batches and a ragged one: the goal is 1.1 times ``quadratic_along`` of each.
accumulate where the weight of a batch is a guess that every batch must pass: over accumulate with the weight given.
per_example_quadratics of one batch, in gradients of that batch (the module called directly): the goals are 5 for 10-5-1
on 1000 examples, and 40 for the MLP and the conv net. float32, one thread, the least CPU time of interleaved rounds.
"""

import argparse
import time

import torch

from alpha_func import capture, functional_loss, quadratic_along, tree
from alpha_func.data_sets import accumulate, per_example_quadratics
from benchmarks.costs.captured_programs import parts
from benchmarks.nets import NETS

GOAL_ACCUMULATE = 1.1
GUESSED = "accumulate, weight guessed"
GOALS = {"10-5-1": 5, "mlp": 40, "conv": 40}
EXAMPLES = 1000  # of the 10-5-1 net


def timed(name, chunk_sizes):
    """Pairs of (what, in units of what), each a function of nothing."""
    torch.manual_seed(0)
    net, criterion, (x, y) = parts(NETS[name]())
    many = (torch.randn(EXAMPLES, 10), torch.randn(EXAMPLES, 1)) if name == "10-5-1" else (x, y)
    module_params = list(net.parameters())
    loss, params = functional_loss(net, criterion)
    captured = capture(loss)
    d = tree.unflatten([-g for g in torch.autograd.grad(criterion(net(x), y), module_params)], tree.structure(params))
    full = 31 if name == "10-5-1" else 8  # 1000 examples in batches of 32, as in the first experiment
    batches = [(x + k / 100, y) for k in range(full)] + [(x[: len(x) // 4], y[: len(y) // 4])]
    along, summed = quadratic_along(captured), accumulate(captured)
    guessed = accumulate(capture(functional_loss(net, lambda outputs, targets: criterion(outputs, targets))[0]))

    def gradient():
        torch.autograd.grad(criterion(net(many[0]), many[1]), module_params)

    pairs = {
        "accumulate": (lambda: summed(params, d, batches), lambda: [along(params, d, *b) for b in batches]),
        GUESSED: (lambda: guessed(params, d, batches), lambda: summed(params, d, batches)),
    }
    for size in chunk_sizes:
        each = per_example_quadratics(loss, chunk_size=size)
        pairs[f"per example, chunk_size={size}"] = (lambda each=each: each(params, d, many), gradient)
    return pairs


def ratio(of, unit, rounds, repeats):
    """The least CPU time of one over that of the other: what else runs on the machine only adds to either."""
    seconds = {of: [], unit: []}
    for round_ in range(rounds + 1):
        for run in (of, unit) if round_ % 2 else (unit, of):
            begin = time.process_time()
            for _ in range(repeats):
                run()
            seconds[run].append(time.process_time() - begin)
    return min(seconds[of][1:]) / min(seconds[unit][1:])


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(GOALS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunk-sizes", nargs="+", type=int, default=[None])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.nets:
        for what, (of, unit) in timed(name, options.chunk_sizes).items():
            found = ratio(of, unit, options.rounds, 5 if name == "10-5-1" else 1)
            goal = {"accumulate": GOAL_ACCUMULATE, GUESSED: None}.get(what, GOALS[name])
            print(f"{name:8} {what:32} {found:6.2f}" + (f" (goal {goal})" if goal else ""), flush=True)


if __name__ == "__main__":
    main()
