"""Functions of a rank, and how to run one on every rank: in processes forked from one that has imported torch."""

import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.fx.experimental.symbolic_shapes  # torch.func's first call imports it: here, once for every process

import alpha_func
from alpha_func import Quadratic, quadratic_along, tree
from alpha_func.data_sets import all_reduce, data_parallel_quadratic
from alpha_func.taylor import Taylor
from alpha_func.transforms import quadratic_by_group, quadratic_in_span, taylor_along

ROOT = Path(__file__).parents[2]


def start(name, ranks, *, timeout=60.0, limit=1000.0):
    """Run a function, or the one here of a name, on every rank: [(exit status, what it returned, its traceback)].

    All are killed at the limit.
    """
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    context.set_forkserver_preload([__name__, "tests.helpers.sharded_ranks"])
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        rest = (ranks, f"{folder}/store", timeout, folder)
        running = [context.Process(target=run, args=(name, rank, *rest)) for rank in range(ranks)]
        for process in running:
            process.start()
        for process in running:
            process.join(max(limit - (time.monotonic() - begin), 0))
        for process in running:
            process.kill()
            process.join()
        results = []
        for rank, process in enumerate(running):
            printed, error = Path(folder, f"{rank}.json"), Path(folder, f"{rank}.error")
            found = json.loads(printed.read_text()) if printed.exists() else None
            results.append((process.exitcode, found, error.read_text() if error.exists() else ""))
        return results


def run(name, rank, ranks, store, timeout, folder):
    torch.set_num_threads(1)
    wait = timedelta(seconds=timeout)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=wait)
        dist.barrier()  # a rank that ends at once must not end before the others have met it
        found = (globals()[name] if isinstance(name, str) else name)(rank, ranks)
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
    except Exception:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        sys.exit(1)
    dist.destroy_process_group()


def observed_in_ddp(rank, ranks):
    """The records of a DistributedDataParallel loop: of the global batch, and of the shard."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    wrapped = torch.nn.parallel.DistributedDataParallel(net) if ranks > 1 else net
    criterion, optimizer = torch.nn.MSELoss(), torch.optim.SGD(net.parameters(), lr=0.3)
    whole = alpha_func.Observer(wrapped, criterion, optimizer)
    shard = alpha_func.Observer(net, criterion, optimizer, over_ranks=False)
    found = []
    for step in range(3):
        batch = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(step)).double()
        x, y = (part.chunk(ranks)[rank] for part in (batch[0], batch[1][:, :2]))
        optimizer.zero_grad()
        loss = criterion(wrapped(x), y)
        loss.backward()
        if step == 2:
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        whole.batch(x, y, loss=loss if step == 1 else None)
        shard.batch(x, y)
        optimizer.step()
        record = whole.last
        found.append([record.loss, record.slope, record.curvature, record.loss_after, record.gradient_factor])
        found[-1] += [record.agrees, record.more["ranks"], shard.last.loss, shard.last.more["ranks"]]
    return found


def disagreements(rank, ranks):
    from tests.helpers import disagreements

    return disagreements.disagreements(rank, ranks)


def case():
    """The same loss, point and direction everywhere."""
    from torch import nn

    from tests.helpers.cases import mse_net

    return mse_net(activation=nn.Tanh)


SHARDS = {2: (25, 7), 4: (20, 0, 11, 1)}  # of 32 examples; one rank has none


def shard(args, rank, ranks):
    start = sum(SHARDS[ranks][:rank])
    some = [a[start : start + SHARDS[ranks][rank]] for a in args]
    return [batch for batch in zip(*(a.split(6) for a in some), strict=True) if len(batch[0])]


def numbers(quadratic):
    return [float(number) for number in quadratic]


def quadratic(rank, ranks):
    """all_reduce of what accumulate found, and the two in one."""
    from alpha_func.data_sets import accumulate, all_reduce, data_parallel_quadratic

    loss, params, direction, args = case()
    batches = shard(args, rank, ranks)
    total = accumulate(loss).total(params, direction, batches)
    return (
        numbers(all_reduce(total.result, total.weight)),
        numbers(data_parallel_quadratic(loss)(params, direction, batches)),
    )


VERBS = {
    "quadratic": quadratic_along,
    "taylor": partial(taylor_along, order=4),
    "span": quadratic_in_span,
    "groups": quadratic_by_group,
    "interactions": partial(quadratic_by_group, groups=["*weight", "*bias"], interactions=True),
    "gauss_newton": partial(quadratic_along, curvature="gauss_newton"),
    "fisher": partial(quadratic_along, curvature="fisher"),
}


def operand_of(verb, case):
    """The direction of a case, or two of a span."""
    other = tree.randn_like(case.params, generator=torch.Generator().manual_seed(1))
    return [case.direction, other] if verb == "span" else case.direction


def every_verb(rank, ranks):
    """The numbers of every verb, with uneven shards and with all data on one rank; and two errors."""
    of, one = case(), torch.tensor(1.0)
    found = {}
    for name, verb in VERBS.items():
        over_ranks, operand = data_parallel_quadratic(of.loss, verb=verb), operand_of(name, of)
        results = [over_ranks(of.params, operand, mine) for mine in (shard(of.args, rank, ranks), [of.args][rank:])]
        found[name] = [[x for leaf in tree.leaves(each) for x in leaf.reshape(-1).tolist()] for each in results]
    kinds = [Quadratic(one, one, one), Taylor(one, one, one, (one,))]
    for name, result in {"two kinds": kinds[rank], "no result": [kinds[0], None][rank]}.items():
        try:
            found[name] = f"no error, {all_reduce(result, 1.0)}"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def of_a_sum(rank, ranks):
    from torch import nn

    from alpha_func import functional_loss, tree
    from alpha_func.data_sets import data_parallel_gradient, data_parallel_quadratic

    loss, params, direction, args = case()
    loss, _ = functional_loss(loss.model.module, nn.MSELoss(reduction="sum"))
    batches = shard(args, rank, ranks)
    grads = data_parallel_gradient(loss)(params, batches)
    return numbers(data_parallel_quadratic(loss)(params, direction, batches)), float(tree.norm(grads))


def step(rank, ranks):
    """A step of steepest descent: gradient, and the quadratic along it, captured."""
    from alpha_func import capture, tree
    from alpha_func.data_sets import data_parallel_gradient, data_parallel_quadratic
    from alpha_func.transforms import steepest_descent

    loss, params, _, args = case()
    captured, batches = capture(loss), shard(args, rank, ranks)
    grads = data_parallel_gradient(captured)(params, batches)
    found = data_parallel_quadratic(captured)(params, steepest_descent(grads), batches)
    return [leaf.tolist() for leaf in tree.leaves(grads)], numbers(found)


def wrapped(rank, ranks):
    """Under DistributedDataParallel, with torch's own gradient; its buffers and .grad stay as they are."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from alpha_func import functional_loss
    from alpha_func.data_sets import data_parallel_quadratic

    loss, _, _, args = case()
    module = DistributedDataParallel(loss.model.module)
    batches = shard(args, rank, ranks)
    size = sum(len(x) for x, _ in batches)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    (torch.nn.functional.mse_loss(module(x), y) * size * ranks / 32).backward()  # torch averages over ranks
    unwrapped, params = functional_loss(module, torch.nn.MSELoss())
    d = {name: -p.grad.clone() for name, p in module.module.named_parameters()}
    return list(params), numbers(data_parallel_quadratic(unwrapped)(params, d, batches))


def one_rank_dies(rank, ranks):
    import os

    from alpha_func.data_sets import data_parallel_quadratic

    loss, params, direction, args = case()
    if rank == 1:
        os._exit(7)
    return numbers(data_parallel_quadratic(loss)(params, direction, shard(args, rank, ranks)))


def one_rank_hangs(rank, ranks):
    from alpha_func.data_sets import data_parallel_quadratic

    loss, params, direction, args = case()
    if rank == 1:
        time.sleep(8)  # twice the group's timeout
        return None
    return numbers(data_parallel_quadratic(loss)(params, direction, shard(args, rank, ranks)))
