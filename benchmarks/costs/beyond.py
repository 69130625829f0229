"""What more than one quadratic costs, in units of one quadratic of the same captured loss and batch.

    python -m benchmarks.costs.beyond [net ...] [--rounds 20] [--csv benchmarks/report/beyond.csv]

float32, two threads; the median, over interleaved rounds, of the ratio to the quadratics before and after it in its
round, with the middle half of the ratios; beside it, the products with a weight or of two activations of its program
over those of the quadratic's. The CSV file is what REPORT.md has a section of.
"""

import argparse
import csv
import statistics
import time
from functools import partial

import torch
from torch import fx

from alpha_func import capture, functional_loss, quadratic_along, tree
from alpha_func.capture.running.schemes import Schemes
from alpha_func.transforms import lr_and_momentum, quadratic_by_group, quadratic_in_span, taylor_along
from benchmarks.costs.captured_programs import parts
from benchmarks.nets import NETS

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default)


def products(program: fx.GraphModule) -> int:
    """How many products of matrices, and convolutions, a program has."""
    both = sum(sum(n.args[-1][:2]) for n in program.graph.nodes if n.target is aten.convolution_backward.default)
    return both + sum(node.target in PRODUCTS for node in program.graph.nodes)


def calls(net, criterion, batch):
    """Each as a function of nothing, and the program that it runs, where it is one."""
    loss, params = functional_loss(net, criterion)
    captured = capture(loss)
    generator = torch.Generator().manual_seed(0)
    ds = [tree.map(lambda p: torch.randn(p.shape, generator=generator), params) for _ in range(4)]
    schemes: Schemes = captured.program(params, *batch).schemes
    zero = torch.zeros(())
    marked = captured.program(params, *batch, shift=zero).schemes
    made = {
        "taylor_along, order 3": (taylor_along(captured), ds[0], schemes.taylor(3)),
        "taylor_along, order 4": (taylor_along(captured, order=4), ds[0], schemes.taylor(4)),
        "quadratic_in_span, 2": (quadratic_in_span(captured), ds[:2], schemes.span(2)),
        "quadratic_in_span, 4": (quadratic_in_span(captured), ds, schemes.span(4)),
        "gauss_newton": (quadratic_along(captured, curvature="gauss_newton"), ds[0], marked.gauss_newton),
        "quadratic_by_group": (quadratic_by_group(captured), ds[0], None),
        "quadratic_along": (quadratic_along(captured), ds[0], schemes.quadratic),
    }
    verbs = {name: (partial(verb, params, along, *batch), scheme) for name, (verb, along, scheme) in made.items()}
    verbs["lr_and_momentum"] = partial(lr_and_momentum(captured), params, *ds[:2], *batch), schemes.span(2)
    for run, _ in verbs.values():
        run(), run()  # captured and proven
    return verbs


def ratios(unit, verbs, rounds, repeats):
    """The seconds of the unit, and of each verb over it, in every round: all take their turn, the unit before each."""
    found, units = {name: [] for name in verbs}, []

    def seconds(run):
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - begin) / repeats

    for _ in range(rounds):
        before = seconds(unit)
        for name, run in verbs.items():
            of_verb, after = seconds(run), seconds(unit)
            found[name].append(2 * of_verb / (before + after))
            units.append(before := after)
    return statistics.median(units), found


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=[name for name in NETS if name != "residual"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--csv", help="write the table to this file, too")
    options = parser.parse_args()
    torch.set_num_threads(2)
    lines = []
    for name in options.nets:
        torch.manual_seed(0)
        verbs = calls(*parts(NETS[name]()))
        unit, scheme = verbs.pop("quadratic_along")
        of_one = products(scheme.program)
        repeats = 50 if name == "10-5-1" else 1
        median, found = ratios(unit, {verb: run for verb, (run, _) in verbs.items()}, options.rounds, repeats)
        print(f"{name}: quadratic_along {median * 1e3:.3f} ms, {of_one} products")
        for verb, each in found.items():
            program = getattr(verbs[verb][1], "program", None)
            count = f"{products(program) / of_one:.2f}" if program else ""
            low, middle, high = (f"{quartile:.2f}" for quartile in statistics.quantiles(each, n=4))
            print(f"  {verb:24} {middle} ({low} to {high})   {count or 'no'} products", flush=True)
            lines.append([name, verb, low, middle, high, count])
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            csv.writer(file).writerows([["net", "verb", "low", "median", "high", "products"], *lines])


if __name__ == "__main__":
    main()
