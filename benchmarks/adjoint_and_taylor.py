"""Taylor and adjoint programs in units of one eager gradient of the same loss and batch: the goals of issue 4.

    python benchmarks/adjoint_and_taylor.py [net ...] [--rounds 20] [--backends eager inductor]

float32, two threads, the module called directly, medians of interleaved rounds.
"""

import argparse
import statistics
import time

import torch
from nets import NETS

from alpha_func import functional_loss, tree
from alpha_func.capture.adjoint import steepest_descent_program
from alpha_func.capture.backends import BACKENDS
from alpha_func.capture.lowering_standin import lower
from alpha_func.capture.taylor import taylor_program

GOALS = {
    "10-5-1": (1.3, 0.7, 1.5, 0.75),
    "mlp": (1.8, 1.65, 2.3, 2.05),
    "conv": (1.4, 1.2, 1.8, 1.5),
    "residual": (2.7, 1.0, 3.1, 1.4),
    "gpt": (2.0, 1.8, 2.4, 2.1),
}


def programs(net, criterion, batch, backends):
    """The gradient and, for each backend, both programs, as functions of nothing; and what capture took."""
    module_params = list(net.parameters())

    def gradient():
        return torch.autograd.grad(criterion(net(batch[0]), batch[1]), module_params)

    loss, params = functional_loss(net, criterion)
    leaves, structure = tree.flatten(params)
    n = len(leaves)
    begin = time.perf_counter()
    lowered = lower(lambda *f: loss(tree.unflatten(f[:n], structure), *f[n:]), [*leaves, *batch])
    taylor, adjoint = taylor_program(lowered, n), steepest_descent_program(lowered, n)
    captured = time.perf_counter() - begin
    d = [-g for g in gradient()]
    timed = {"gradient": gradient}
    for backend in backends:
        run_taylor, run_adjoint = BACKENDS[backend](taylor), BACKENDS[backend](adjoint)
        timed[f"taylor {backend}"] = lambda run=run_taylor: run(*leaves, *batch, *d)
        timed[f"adjoint {backend}"] = lambda run=run_adjoint: run(*leaves, *batch)
    return timed, captured


def medians(timed, rounds, repeats):
    """The median seconds of each, over rounds in which all take their turn."""
    seconds = {name: [] for name in timed}
    for round_ in range(rounds + 2):
        for name, run in timed.items():
            begin = time.perf_counter()
            for _ in range(repeats):
                run()
            if round_ >= 2:
                seconds[name].append((time.perf_counter() - begin) / repeats)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    options = parser.parse_args()
    torch.set_num_threads(2)
    for name in options.nets:
        torch.manual_seed(0)
        net, criterion, *batch = NETS[name]()
        timed, captured = programs(net, criterion, batch, options.backends)
        found = medians(timed, options.rounds, 200 if name == "10-5-1" else 1)
        goals = dict(
            zip(("taylor eager", "taylor inductor", "adjoint eager", "adjoint inductor"), GOALS[name], strict=True)
        )
        unit = found.pop("gradient")
        ratios = "   ".join(f"{key} {value / unit:.2f} (≤ {goals[key]})" for key, value in found.items())
        print(f"{name:9} gradient {unit * 1e3:.3f} ms, capture {captured:.1f} s   {ratios}", flush=True)


if __name__ == "__main__":
    main()
