"""What more than one quadratic costs, in units of one quadratic of the same captured loss and batch.

    python -m benchmarks.costs.beyond [net ...] [--rounds 20]

float32, two threads, medians of interleaved rounds; beside each, the products with a weight or of two activations of
its program over those of the quadratic's.
"""

import argparse

import torch
from torch import fx

from alpha_func import capture, functional_loss, quadratic_along, tree
from alpha_func.capture.running.schemes import Schemes
from alpha_func.transforms import lr_and_momentum, quadratic_by_group, quadratic_in_span, taylor_along
from benchmarks.costs.captured_programs import medians, parts
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
    gauss_newton = quadratic_along(captured, curvature="gauss_newton")
    verbs = {
        "quadratic_along": (lambda: quadratic_along(captured)(params, ds[0], *batch), schemes.quadratic),
        "taylor_along, order 3": (lambda: taylor_along(captured)(params, ds[0], *batch), schemes.taylor(3)),
        "taylor_along, order 4": (lambda: taylor_along(captured, order=4)(params, ds[0], *batch), schemes.taylor(4)),
        "quadratic_in_span, 2": (lambda: quadratic_in_span(captured)(params, ds[:2], *batch), schemes.span(2)),
        "quadratic_in_span, 4": (lambda: quadratic_in_span(captured)(params, ds, *batch), schemes.span(4)),
        "lr_and_momentum": (lambda: lr_and_momentum(captured)(params, *ds[:2], *batch), schemes.span(2)),
        "gauss_newton": (lambda: gauss_newton(params, ds[0], *batch), marked.gauss_newton),
        "quadratic_by_group": (lambda: quadratic_by_group(captured)(params, ds[0], *batch), None),
    }
    for run, _ in verbs.values():
        run(), run()  # captured and proven
    return verbs


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=[name for name in NETS if name != "residual"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(2)
    for name in options.nets:
        torch.manual_seed(0)
        verbs = calls(*parts(NETS[name]()))
        found = medians({verb: run for verb, (run, _) in verbs.items()}, options.rounds, 50 if name == "10-5-1" else 1)
        unit, of_one = found["quadratic_along"], products(verbs["quadratic_along"][1].program)
        print(f"{name}: quadratic_along {unit * 1e3:.3f} ms, {of_one} products")
        for verb, seconds in found.items():
            scheme = verbs[verb][1]
            count = (
                f"{products(scheme.program) / of_one:.2f} products" if scheme is not None else "no program of its own"
            )
            print(f"  {verb:24} {seconds / unit:.2f}   {count}", flush=True)


if __name__ == "__main__":
    main()
