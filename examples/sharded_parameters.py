"""α* of a model whose parameters are spread over processes, none of which holds them all; and the bytes that it sends.

    torchrun --nproc-per-node 2 examples/sharded_parameters.py [--width 512] [--depth 4]

Each process keeps a share of every parameter, of the gradient and of the direction. A layer's weight is gathered when
its forward asks for it, with what the direction is there, and dropped after it: the forward Taylor sweep
(forward_over_forward) needs no more, since it has no backward. The other strategies must not be used here: they end in
inner products of shares. The gradient is scattered back by the derivative of the gathering. The quadratic
is compared with that of the whole model on all data, and the bytes that crossed the loopback interface (of everything
on the machine) with what the collectives send, in a ring.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import grad
from torch.nn.utils import parametrize

from alpha_func import Quadratic, functional_loss, quadratic_along
from alpha_func.data_sets import accumulate, all_reduce, data_parallel_gradient
from alpha_func.transforms import forward_over_forward, steepest_descent

EXAMPLES, FEATURES = 256, 64
REPEATS = 200  # of an exchange too small to be counted


class Gather(torch.autograd.Function):
    """Equal shares of a vector, one on each process, as the whole vector on each. It is linear: its own derivative."""

    @staticmethod
    def forward(share: Tensor) -> Tensor:
        """All shares in the order of their ranks."""
        shares = [torch.empty_like(share) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """A linear function has nothing to keep."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        """The tangent's shares, gathered."""
        return Gather.apply(tangent)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        """The transpose: the sum over processes, of which each keeps its share."""
        share = torch.empty_like(cotangent.chunk(dist.get_world_size())[0])
        dist.reduce_scatter(share, list(cotangent.contiguous().chunk(dist.get_world_size())))
        return share


class Shared(nn.Module):
    """A parametrization: the parameter that is kept is this process's share, padded to the size of every other's."""

    def __init__(self, whole: Tensor):
        super().__init__()
        self.shape, self.size = whole.shape, -(-whole.numel() // dist.get_world_size())

    def forward(self, share: Tensor) -> Tensor:
        """The whole parameter."""
        return Gather.apply(share)[: self.shape.numel()].view(self.shape)

    def right_inverse(self, whole: Tensor) -> Tensor:
        """What is kept here of the whole parameter."""
        flat = nn.functional.pad(whole.flatten(), (0, self.size * dist.get_world_size() - whole.numel()))
        return flat[dist.get_rank() * self.size :][: self.size].clone()


def spread(module: nn.Module) -> nn.Module:
    """Keep only this process's share of every parameter."""
    for layer in list(module.modules()):
        for name, whole in list(layer.named_parameters(recurse=False)):
            parametrize.register_parametrization(layer, name, Shared(whole), unsafe=True)
    return module


def network(width: int, depth: int) -> nn.Sequential:
    """FEATURES-width-…-width-1 with tanh, the same on every process."""
    torch.manual_seed(0)
    sizes = [FEATURES, *[width] * depth]
    hidden = [layer for m, n in pairwise(sizes) for layer in (nn.Linear(m, n), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(width, 1)).double()


def sweep(loss: Callable[..., Tensor], params: Any, direction: Any) -> Quadratic:
    """forward_over_forward, as a strategy of one's own: by its name it is refused for a Function with a jvp.

    torch.func takes the derivative of a jvp for zero. Of a linear Function it is.
    """
    return forward_over_forward(loss, params, direction)


def counted(run: Callable[[], Any]) -> tuple[Any, int]:
    """What a function returns, and the bytes that were sent over the loopback interface meanwhile, by all processes."""
    dist.barrier()
    before = _sent()
    found = run()
    dist.barrier()
    return found, _sent() - before


def _sent() -> int:
    if not Path("/proc/net/dev").exists():  # not Linux
        return 0
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def main() -> int:
    """Measure, and print on the first process; the exit status is 1 where the quadratics differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=4)
    options = parser.parse_args()
    dist.init_process_group("gloo")
    warnings.filterwarnings("ignore", "the second derivative of gather")  # it is 0, and the result is checked below
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    inputs, targets = torch.randn(EXAMPLES, FEATURES).double(), torch.randn(EXAMPLES, 1).double()
    x, y = inputs[rank::ranks], targets[rank::ranks]

    loss, params = functional_loss(network(options.width, options.depth), nn.MSELoss())
    truth = quadratic_along(loss)(params, steepest_descent(grad(loss)(params, inputs, targets)), inputs, targets)
    _, of_gradient = counted(lambda: data_parallel_gradient(loss)(params, [(x, y)]))

    spread_loss, shares = functional_loss(spread(network(options.width, options.depth)), nn.MSELoss())
    spread_loss(shares, x, y)  # what a first call looks at is not counted
    weighted = len(x) / EXAMPLES  # the scattered gradient is a sum over processes
    grads, of_shares = counted(lambda: grad(lambda p: weighted * spread_loss(p, x, y))(shares))
    d = steepest_descent(grads)
    along = quadratic_along(spread_loss, strategy=sweep)
    mine, of_sweep = counted(lambda: along(shares, d, x, y))
    found = all_reduce(mine, len(x))
    _, of_numbers = counted(lambda: [all_reduce(mine, len(x)) for _ in range(REPEATS)])
    # Batch by batch, the same number of batches on every process: gathering is something that all do together.
    batches = list(zip(x.split(50), y.split(50), strict=True))
    total = accumulate(spread_loss, strategy=sweep).total(shares, d, batches)
    by_batches = all_reduce(total.quadratic, total.weight)

    size = 8 * sum(p.numel() for p in params.values())
    kept = 8 * sum(p.numel() for p in shares.values())
    error = max(_error(found, truth), _error(by_batches, truth))
    if rank == 0:
        print(f"parameters {size / 1e6:.2f} MB, of which each of {ranks} processes keeps {kept / 1e6:.2f} MB")
        print(f"α* {float(found.alpha):.12g}, of the whole model {float(truth.alpha):.12g}")
        links = ranks - 1  # to gather n bytes, or to scatter them, a ring sends (ranks - 1)·n; to reduce them, both
        rows = (
            ("the numbers of a quadratic", of_numbers // REPEATS, links * ranks * 112),
            ("gradient, parameters whole", of_gradient, 2 * links * size),
            ("gradient, parameters shared", of_shares, 3 * links * size),  # Gloo scatters by reducing
            ("forward sweep, parameters shared", of_sweep, 3 * links * size),  # θ, and two tangents of jvp(jvp)
        )
        for what, sent, expected in rows:
            print(f"{what:34} {sent:>12} bytes sent, in a ring {expected:>12}")
    dist.destroy_process_group()
    return int(error > 1e-11)


def _error(found: Quadratic, truth: Quadratic) -> float:
    """The largest relative error."""
    return max(float(abs(a - b) / abs(b)) for a, b in zip(found, truth, strict=True))


if __name__ == "__main__":
    sys.exit(main())
