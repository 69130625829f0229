"""What is not done with sharded parameters is refused by name, with the remedy, before any rank waits for another."""

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.func import grad, vmap

from alpha_func import Quadratic, capture, check_quadratic, functional_loss, grad_and_quadratic, hvp, quadratic_along
from alpha_func.data_sets import all_reduce
from tests.helpers.placements import mesh_of, net, placed, random_direction, sharded

pytestmark = pytest.mark.usefixtures("four_ranks")
CAPTURE = r"capture the loss, quadratic_along\(capture\(loss\)\)\(params, direction, \*batch\)"


@pytest.fixture
def case(four_ranks):
    model, criterion, batch = net()
    whole = random_direction(model)
    loss, params = functional_loss(sharded(model), criterion)
    return loss, params, placed(whole, params), batch


def test_an_uncaptured_loss_is_refused(case):
    loss, params, d, batch = case
    for call in (
        lambda: loss(params, *batch),
        lambda: quadratic_along(loss)(params, d, *batch),
        lambda: quadratic_along(loss, strategy="forward_over_forward")(params, d, *batch),
        lambda: quadratic_along(capture(loss), strategy="reverse_over_reverse")(params, d, *batch),
        lambda: hvp(loss)(params, d, *batch),
        lambda: grad_and_quadratic(loss)(params, *batch),
    ):
        with pytest.raises(TypeError, match=rf"params.* a DTensor \(.*{CAPTURE}"):
            call()


def test_whole_parameters_do_not_go_into_a_sharded_module(case):
    loss, params, _, batch = case
    with pytest.raises(TypeError, match=CAPTURE):
        loss({name: torch.zeros(p.shape) for name, p in params.items()}, *batch)


def test_a_loss_that_cannot_be_captured_has_a_remedy_that_runs(case):
    loss, params, d, batch = case
    loss, _ = functional_loss(
        loss.model.module, loss_of=lambda model, x, y: (torch._dynamo.graph_break(), model(x).sum())[1]
    )
    with pytest.raises(RuntimeError, match=r"cannot be traced.* of sharded parameters only a captured loss") as raised:
        quadratic_along(capture(loss))(params, d, *batch)
    assert "uncaptured" not in str(raised.value)


def test_a_check_in_one_process_is_refused_and_the_program_can_be_read(case):
    loss, params, d, batch = case
    for given in (loss, capture(loss)):
        with pytest.raises(RuntimeError, match=r"the parameters are sharded .*capture\(loss, strict=True\) compares"):
            check_quadratic(given, params, d, *batch)
    assert "tanh" in str(capture(loss).program(params, *batch))


def test_a_frozen_shard_is_named_as_the_modules():
    model, criterion, batch = net()
    model.blocks.requires_grad_(False)
    loss, params = functional_loss(sharded(model), criterion)
    whole = {name: torch.zeros(p.shape, dtype=p.dtype) for name, p in params.items()}
    with pytest.raises(TypeError, match=rf"module's parameter 'blocks.0.0.weight' is a DTensor .*{CAPTURE}"):
        loss(whole, *batch)


@pytest.mark.parametrize("verb", [grad_and_quadratic, hvp])
def test_gradients_and_products_are_refused(case, verb):
    loss, params, d, batch = case
    operands = (params,) if verb is grad_and_quadratic else (params, d)
    with pytest.raises(RuntimeError, match=r"StrategyError|compute the gradient by backward\(\) of the module"):
        verb(capture(loss))(*operands, *batch)


def test_transforms_over_shards_are_refused(case):
    loss, params, d, batch = case
    along = quadratic_along(capture(loss))
    for call in (
        lambda: grad(lambda p: along(p, d, *batch).curvature)(params),
        lambda: vmap(lambda x, y: along(params, d, x, y))(*(part[:, None] for part in batch)),
    ):
        with pytest.raises(
            RuntimeError, match=r"params are sharded \(DTensors\), and cannot be gathered inside vmap or grad"
        ):
            call()


def test_a_compiled_backend_is_refused(case):
    loss, params, d, batch = case
    with pytest.raises(RuntimeError, match=r"backend 'inductor' does not gather sharded parameters"):
        quadratic_along(capture(loss, backend="inductor"))(params, d, *batch)


def test_a_direction_that_lies_elsewhere_is_refused(case):
    loss, params, d, batch = case
    along, name = quadratic_along(capture(loss)), next(iter(d))
    for other, got in (
        (torch.zeros(d[name].shape, dtype=torch.float64), "whole"),
        (d[name].redistribute(placements=[Replicate()]), r"a DTensor \(R"),
    ):
        with pytest.raises(TypeError, match=rf"direction\['{name}'\] is {got}.*expected a DTensor \((Shard|S)\("):
            along(params, {**d, name: other}, *batch)


def test_sums_that_were_not_taken_are_refused():
    mesh, (model, criterion, _) = mesh_of("rank"), net()
    partial = DTensor.from_local(torch.ones(2, dtype=torch.float64), mesh, [Partial()])
    model.head.register_buffer("scale", partial)
    with pytest.raises(TypeError, match=r"module's buffer 'head.scale' is a DTensor whose sum .* redistribute it"):
        functional_loss(model, criterion)
    along = quadratic_along(capture(lambda p: (p**2).sum()))
    with pytest.raises(TypeError, match=r"params is a DTensor whose sum .* redistribute it"):
        along(partial, partial)


def test_other_ways_of_spreading_a_module_are_refused_by_name():
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.pipelining import PipelineStage

    with pytest.raises(TypeError, match=r"module is under FSDP1 .*fully_shard"):
        functional_loss(nn.Sequential(FullyShardedDataParallel(nn.Linear(4, 2), device_id=torch.device("cpu"))))
    stage = PipelineStage(nn.Linear(4, 2), 0, 4, torch.device("cpu"))
    with pytest.raises(TypeError, match=r"module is a PipelineStage, one stage of a pipeline.*fully_shard"):
        functional_loss(stage)


def test_a_number_to_be_reduced_is_this_ranks_own():
    numbers = [distribute_tensor(torch.tensor(1.0), mesh_of("rank"), [Replicate()]) for _ in range(3)]
    with pytest.raises(TypeError, match=r"result.value is a DTensor"):
        all_reduce(Quadratic(*numbers), 1.0)


def test_what_is_sharded_has_the_names_of_the_module_and_no_other_memory(case):
    loss, params, _, _ = case
    own = dict(loss.model.module.named_parameters())
    assert list(params) == list(own)
    assert all(p.to_local().data_ptr() == own[name].to_local().data_ptr() for name, p in params.items())
