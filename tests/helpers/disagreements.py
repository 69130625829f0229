"""What ranks may disagree on or suffer, each a call on every rank, in one group that must stay usable all along."""

import logging.handlers
import math
import queue

import torch
import torch.distributed as dist
from torch import nn

from alpha_func import Observer, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.data_sets import all_reduce, data_parallel_gradient, data_parallel_quadratic
from alpha_func.quadratic import Quadratic
from tests.helpers.cases import mlp, mse_net

ODD = 2  # the rank that is unlike the others


def scaled(direction):
    return tree.scale(1 / tree.norm(direction), direction)


def directions(rank, ranks):
    """How each direction of a rank's own comes about; their norms agree."""
    loss, params, shared, args = mse_net(activation=nn.Tanh)
    own = tree.neg(grad_and_quadratic(loss)(params, *(a.chunk(ranks)[rank] for a in args)).grads)
    seeded = tree.randn_like(params, generator=torch.Generator().manual_seed(rank))
    flipped = tree.map(torch.clone, shared)
    if rank == ODD:
        next(iter(flipped.values())).view(-1)[3].neg_()
    nowhere = tree.map(lambda leaf: leaf * (math.nan if rank == ODD else 1.0), shared)
    return {
        "own direction: normalised gradient": scaled(own),
        "own direction: sign": tree.map(torch.sign, own),
        "own direction: seed": scaled(seeded),
        "direction: one sign": flipped,
        "direction: not a number": nowhere,
    }


def params_of(rank):
    """Parameters that are unlike the others' on one rank."""
    _, params, _, _ = mse_net()
    first, *rest = params
    odd = {
        "order": {name: params[name] for name in (*rest, first)},
        "names": {"other" if name == first else name: leaf for name, leaf in params.items()},
        "shapes": {name: leaf.T if name == first else leaf for name, leaf in params.items()},
        "dtype": {name: leaf.float() if name == first else leaf for name, leaf in params.items()},
        "values": {name: leaf + 1e-4 if name == first else leaf for name, leaf in params.items()},
    }
    return {name: some if rank == ODD else params for name, some in odd.items()}


class Uncopied(dict):
    def __copy__(self):
        raise OSError("no copy")


def observed(rank, *, fewer=False, own_steps=False, none=False, uncopied=False):
    """What an Observer over ranks says where they hand over other batches, or none, or take steps of their own."""
    said = logging.handlers.QueueHandler(queue.SimpleQueue())
    logging.getLogger("alpha_func").addHandler(said)
    torch.manual_seed(0)
    net = mlp([3, 4, 2])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    observer = Observer(net, nn.MSELoss(), optimizer, over_ranks=True, strategy="reverse_over_reverse")
    torch.manual_seed(rank if own_steps else 0)
    for _ in range(1 if fewer and rank == ODD else 2):
        x, y = torch.randn(8, 3), torch.randn(8, 2)
        (nn.functional.mse_loss(net(x), y) / 2).backward()
        if not (none and rank == ODD):
            observer.batch(Uncopied() if uncopied and rank == ODD else x, y)
    for p in net.parameters() if fewer else ():
        p.grad = torch.ones_like(p)
    try:
        optimizer.step()
    finally:
        logging.getLogger("alpha_func").removeHandler(said)
    return observer.last or said.queue.get_nowait().getMessage()


def disagreements(rank, ranks):
    """Each error of this rank, by the name of its cause; the large collectives called; what a right call gives then."""
    loss, params, direction, args = mse_net(activation=nn.Tanh)
    batches = list(zip(*(a.chunk(ranks)[rank].split(4) for a in args), strict=True))
    odd = rank == ODD

    def quadratic(p=params, d=direction, some=None, **options):
        return data_parallel_quadratic(loss, **options)(p, d, batches if some is None else some)

    def gradient(p=params, some=None, **options):
        return data_parallel_gradient(loss, **options)(p, batches if some is None else some)

    def ended_by(error, after):
        yield from batches[:after]
        if odd:
            raise error
        yield from batches[after:]

    net = mlp([10, 5, 1]).double()
    by_mode, mode_params = functional_loss(nn.Sequential(*net, nn.Dropout(0.1)).train(not odd), nn.MSELoss())
    mode_d = tree.randn_like(mode_params, generator=torch.Generator().manual_seed(0))
    mode_params = tree.map(torch.zeros_like, mode_params)
    by_hand = lambda x, y: len(x)  # noqa: E731
    fewer = batches[:1] if odd else batches
    one = Quadratic(*torch.ones(3))
    calls = {name: lambda d=d: quadratic(d=d) for name, d in directions(rank, ranks).items()}
    calls |= {f"params: {name}": lambda p=p: gradient(p=p) for name, p in params_of(rank).items()}
    calls |= {
        "settings: reduction": lambda: quadratic(reduction="sum" if odd else "mean"),
        "settings: weight": lambda: quadratic(weight=by_hand if odd else None),
        "settings: strategy": lambda: quadratic(strategy="forward_over_reverse" if odd else None),
        "settings: mode": lambda: data_parallel_quadratic(by_mode)(mode_params, mode_d, batches),
        "settings: verb": lambda: gradient() if odd else quadratic(),
        "elsewhere": lambda: all_reduce(one, 1.0) if odd else quadratic(),
        "interrupted: quadratic": lambda: quadratic(some=ended_by(KeyboardInterrupt(), 1)),
        "interrupted: gradient": lambda: gradient(some=ended_by(KeyboardInterrupt(), 1)),
        "interrupted: at once": lambda: quadratic(some=ended_by(KeyboardInterrupt(), 0)),
        "interrupted: lockstep": lambda: gradient(some=ended_by(KeyboardInterrupt(), 1), lockstep=True),
        "failed: data": lambda: quadratic(some=ended_by(OSError("the disk is gone"), 1)),
        "failed: lockstep": lambda: quadratic(some=ended_by(OSError("the disk is gone"), 1), lockstep=True),
        "failed: weight": lambda: all_reduce(one, -1.0 if odd else 1.0),
        "failed: direction": lambda: quadratic(d={} if odd else direction),
        "fewer: quadratic": lambda: quadratic(some=fewer, lockstep=True),
        "fewer: gradient": lambda: gradient(some=fewer, lockstep=True),
        "observer: fewer batches": lambda: observed(rank, fewer=True),
        "observer: no batch": lambda: observed(rank, none=True),
        "observer: failed before": lambda: observed(rank, uncopied=True),
        "observer: own steps": lambda: observed(rank, own_steps=True),
        "no data": lambda: all_reduce(None, 0.0),
        "one sum": lambda: all_reduce(one, None if odd else 1.0),
    }
    large, sent, reduce, gather = [], [], dist.all_reduce, dist.all_gather
    dist.all_reduce = lambda tensor, *a, **k: large.append(tensor.numel()) or reduce(tensor, *a, **k)
    dist.all_gather = lambda every, own, *a, **k: sent.append(own.numel()) or gather(every, own, *a, **k)
    errors = {}
    for name, call in calls.items():
        try:
            errors[name] = f"no error, {call()}"
        except BaseException as error:
            errors[name] = f"{type(error).__name__}: {error}"
    del sent[:]
    right = [float(number) for number in quadratic(some=fewer)]  # without lockstep, as many as they like
    same_nan = quadratic(d=tree.scale(math.nan, direction))
    part = dist.new_group([0, ODD])
    try:
        all_reduce(one, -1.0 if odd else 1.0, part)
    except Exception as error:
        errors["in a group"] = f"{type(error).__name__}: {error}"
    return errors, large, sent, right, math.isnan(float(same_nan.slope))


def truth_of_fewer(ranks):
    """The quadratic of what the right call takes."""
    loss, params, direction, args = mse_net(activation=nn.Tanh)
    shards = [[a.chunk(ranks)[rank] for a in args] for rank in range(ranks)]
    taken = [[a[:4] for a in shard] if rank == ODD else shard for rank, shard in enumerate(shards)]
    return quadratic_along(loss)(params, direction, *map(torch.cat, zip(*taken, strict=True)))
