"""The transforms on a captured loss, in units of one eager gradient of the same loss and batch.

    python -m benchmarks.costs.captured_programs [net ...] [--rounds 20] [--backends eager inductor]

float32, two threads, the module called directly, medians of interleaved rounds.
"""

import argparse
import statistics
import time
from functools import partial

import torch

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.capture.captured import BACKENDS
from benchmarks.nets import NETS

GOAL_COLUMNS = (
    "quadratic_along eager",
    "quadratic_along inductor",
    "grad_and_quadratic eager",
    "grad_and_quadratic inductor",
)

GOALS = {
    "10-5-1": (1.3, 0.7, 1.5, 0.75),
    "mlp": (1.8, 1.65, 2.3, 2.05),
    "conv": (1.4, 1.2, 1.8, 1.5),
    "residual": (2.7, 1.0, 3.1, 1.4),
    "gpt": (2.0, 1.8, 2.4, 2.1),
}


def calls(net, criterion, batch, backends):
    """The gradient and, for each backend, both transforms, as functions of nothing; and what capture took."""
    module_params = list(net.parameters())

    def gradient():
        return torch.autograd.grad(criterion(net(batch[0]), batch[1]), module_params)

    loss, params = functional_loss(net, criterion)
    d = tree.unflatten([-g for g in gradient()], tree.structure(params))
    timed, first_calls = {"gradient": gradient}, {}
    for backend in backends:
        captured = capture(loss, backend=backend)
        verbs = {
            "quadratic_along": partial(quadratic_along(captured), params, d, *batch),
            "grad_and_quadratic": partial(grad_and_quadratic(captured), params, *batch),
        }
        for verb, call in verbs.items():
            begin = time.perf_counter()
            call()
            first_calls[f"{verb} {backend}"] = time.perf_counter() - begin
            timed[f"{verb} {backend}"] = call
    return timed, first_calls


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
        timed, first_calls = calls(*parts(NETS[name]()), options.backends)
        found = medians(timed, options.rounds, 200 if name == "10-5-1" else 1)
        goals = dict(zip(GOAL_COLUMNS, GOALS[name], strict=True))
        unit = found.pop("gradient")
        print(f"{name}: gradient {unit * 1e3:.3f} ms")
        for key, value in found.items():
            print(
                f"  {key:28} {value / unit:.2f} (goal {goals[key]})   first call {first_calls[key]:.1f} s", flush=True
            )


def parts(net_and_batch):
    """(net, criterion, batch)."""
    net, criterion, *batch = net_and_batch
    return net, criterion, batch


if __name__ == "__main__":
    main()
