"""``alpha-func observe --optimizer``: any of them, several side by side, and what is refused."""

import math
import re

import pandas as pd
import pytest
import torch
from torch import nn

from alpha_func import functional_loss
from alpha_func.experiment.data import load
from alpha_func.experiment.minibatches import batches
from alpha_func.experiment.optimizers import KINDS
from alpha_func.experiment.settings import Experiment, network
from alpha_func.experiment.training import observe, training_loss
from tests.helpers.command_line import assert_refused
from tests.helpers.command_line import observe as observe_cli
from tests.helpers.reference import dense, flat

LOSSES = {}  # captured once for all tests


def records(**settings):
    experiment = Experiment(**settings)
    data = load(experiment)
    module = network(experiment, data.inputs.shape[1], data.outputs)
    key = experiment.dtype, experiment.hidden
    if key not in LOSSES:
        LOSSES[key] = training_loss(experiment, data, module)
    runs = (observe(experiment, data, module, one, loss=LOSSES[key]) for one in experiment.algorithms())
    return [[observation.record for observation in run] for run in runs], experiment, data


@pytest.mark.parametrize("name", KINDS)
def test_records_are_those_of_the_live_optimizer_and_a_dense_hessian(name):
    (got,), experiment, data = records(optimizers=(name,), epochs=1, dtype="float64", lr=0.03, weight_decay=0.2)
    module = network(experiment, 10, 1)
    (algorithm,) = experiment.algorithms()
    optimizers = algorithm.optimizers(module)
    loss, _ = functional_loss(module, nn.MSELoss())
    for record, batch in zip(got, batches(experiment, data), strict=True):
        before = {key: p.detach().clone() for key, p in module.named_parameters()}
        nn.functional.mse_loss(module(batch.inputs), batch.targets).backward()
        for optimizer in optimizers:
            optimizer.step()
        after = {key: p.detach().clone() for key, p in module.named_parameters()}
        d = flat(after) - flat(before)
        truth = dense(loss, before, batch.inputs, batch.targets)
        expected = truth.quadratic_along(d)
        g = truth.gradient
        module.zero_grad()
        assert record.more["optimizer"] == name
        assert record.loss == pytest.approx(expected.value.item(), rel=1e-12)
        assert record.alpha_steps == pytest.approx(expected.alpha.item(), rel=1e-9)
        assert record.alpha_lr == pytest.approx(0.03 * expected.alpha.item(), rel=1e-9)
        assert record.slope == pytest.approx(expected.slope.item(), rel=1e-9)
        assert record.curvature == pytest.approx(expected.curvature.item(), rel=1e-9)
        assert record.loss_after == pytest.approx(loss(after, batch.inputs, batch.targets).item(), rel=1e-12)
        assert record.step_norm == pytest.approx(d.norm().item(), rel=1e-12)
        assert record.cosine == pytest.approx(-(d @ g / d.norm() / g.norm()).item(), rel=1e-9)
        assert record.trained_slope == pytest.approx(expected.slope.item(), rel=1e-9)
        assert record.agrees
        assert record.weight_decay_share != 0
        if name == "sgd":  # d = −lr (g + weight_decay·θ)
            share = -0.03 * 0.2 * (flat(before) @ g / (d @ g)).item()
            assert record.weight_decay_share == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_every_kth_step_records_what_every_step_does_there(name):
    (every_step,), *_ = records(optimizers=(name,), epochs=1)
    (every_fifth,), *_ = records(optimizers=(name,), epochs=1, every=5)
    assert [record.step for record in every_fifth] == list(range(0, 32, 5))
    for record in every_fifth:
        assert record.loss == pytest.approx(every_step[record.step].loss, rel=1e-5)
        assert record.alpha_lr == pytest.approx(every_step[record.step].alpha_lr, rel=1e-3)


def test_optimizers_start_from_the_same_weights_and_see_the_same_batches():
    runs, *_ = records(optimizers=("sgd", "sgd:lr=0.1", "adam", "muon"), epochs=1, shuffle=True)
    alone = [
        records(optimizers=(name,), epochs=1, shuffle=True)[0][0] for name in ("sgd", "sgd:lr=0.1", "adam", "muon")
    ]
    assert runs == alone
    assert len({run[0].loss for run in runs}) == 1
    assert len({run[-1].loss for run in runs}) == 4


def test_stepping_by_alpha_lands_on_the_vertex_for_an_optimizer_too():
    (got,), *_ = records(optimizers=("adam",), lr="alpha", epochs=2, dtype="float64", hidden=())
    for record in got:
        vertex = record.loss - record.slope**2 / (2 * record.curvature)
        assert record.loss_after == pytest.approx(vertex, rel=1e-10)
        assert record.alpha_steps == pytest.approx(1, rel=1e-12)


def test_a_comparison_leaves_one_table_with_the_optimizers_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # wide enough for a row for each
    assert observe_cli("--data", "diabetes", "--epochs", 3, "--optimizer", "sgd,adam:lr=0.001:betas=0.5/0.9",
                       "--out", tmp_path / "run") == 0  # fmt: skip
    table = pd.read_csv(tmp_path / "run" / "steps.csv")
    assert table.optimizer.tolist() == ["sgd", "adam:lr=0.001:betas=0.5/0.9"] * 42
    assert table.step.tolist() == [step for step in range(42) for _ in range(2)]
    assert set(table.lr[1::2]) == {0.001}
    sgd = table[table.optimizer == "sgd"]
    assert (sgd.cosine == 1).all()
    assert (sgd.weight_decay_share == 0).all()
    for picture in ("alpha.png", "lines.png"):
        assert (tmp_path / "run" / picture).read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert re.search(r"^sgd +42 ", shown, re.MULTILINE)
    assert re.search(r"^adam:lr=0\.001\S* +42 ", shown, re.MULTILINE)


def test_shared_options_reach_every_optimizer_that_takes_them():
    experiment = Experiment(optimizers=("adam", "momentum:momentum=0.5", "sgd"), weight_decay=0.1, momentum=0.8)
    adam, momentum, sgd = experiment.algorithms()
    assert adam.options == {"weight_decay": 0.1}
    assert momentum.options == {"weight_decay": 0.1, "momentum": 0.5}
    assert sgd.options == {"weight_decay": 0.1}
    assert not sgd.is_steepest_descent


def test_a_diverging_optimizer_is_recorded_as_it_is(tmp_path):
    assert observe_cli("--optimizer", "momentum,adam", "--lr", 100, "--epochs", 2, "--out", tmp_path / "run") == 0
    table = pd.read_csv(tmp_path / "run" / "steps.csv")
    assert len(table) == 128
    assert not math.isfinite(table.loss[table.optimizer == "momentum"].iloc[-1])


BAD = {
    "unknown": (["--optimizer", "adma"], r"optimizer 'adma' is unknown: choose from sgd, momentum"),
    "one of several": (["--optimizer", "sgd,adma"], r"'adma' is unknown"),
    "twice": (["--optimizer", "sgd,sgd"], r"several that differ"),
    "empty": (["--optimizer", ""], r"optimizer '' is unknown"),
    "option of another": (["--optimizer", "sgd:momentum=0.9"], r"'momentum=0.9' is not one of its options: sgd:lr"),
    "option without value": (["--optimizer", "adam:lr"], r"'lr' is not one of its options.*betas=0.9/0.999"),
    "value in words": (["--optimizer", "adam:eps=small"], r"'small' is not a number"),
    "learning rate": (["--optimizer", "adam:lr=-1"], r"learning rate is -1: give a positive number"),
    "one beta": (["--optimizer", "adam:betas=0.9"], r"betas is 0.9: give 0.9/0.999"),
    "beta out of range": (["--optimizer", "adam", "--betas", "0.9,1.5"], r"beta.*1.5"),
    "betas in words": (["--optimizer", "adam", "--betas", "high"], r"'high' is not a pair"),
    "negative decay": (["--optimizer", "muon", "--weight-decay", "-1"], r"weight decay.*-1"),
    "momentum for plain sgd": (["--momentum", "0.9"], r"momentum is not an option of sgd; --optimizer momentum"),
    "betas for sgd": (["--betas", "0.9,0.99"], r"betas is not an option of sgd"),
    "nan": (["--optimizer", "adam:eps=nan"], r"nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_option_is_one_line_and_nothing_written(name, tmp_path, capsys):
    arguments, message = BAD[name]
    status = observe_cli(*arguments, "--out", tmp_path / "run")
    assert_refused(status, capsys.readouterr().err, message, tmp_path / "run")


def test_a_runs_random_state_is_its_own():
    before = torch.get_rng_state()
    records(optimizers=("adam", "muon"), epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
