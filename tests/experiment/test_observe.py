"""The main job: what a run records, leaves, refuses and keeps."""

import json
import math
from importlib.metadata import version

import pandas as pd
import pytest
import torch
from torch import nn

from alpha_func import functional_loss
from alpha_func.experiment.cli import main
from alpha_func.experiment.data import load
from alpha_func.experiment.minibatches import batches, steps_of
from alpha_func.experiment.settings import Experiment, network
from alpha_func.experiment.training import observe
from alpha_func.observer import StepRecord
from tests.helpers.command_line import assert_refused
from tests.helpers.command_line import observe as observe_cli
from tests.helpers.reference import dense

FILES = {"steps.csv", "config.json", "lines.jsonl", "alpha.png", "lines.png"}


def records(**settings):
    experiment = Experiment(**settings)
    data = load(experiment)
    module = network(experiment, data.inputs.shape[1], data.outputs)
    return [observation.record for observation in observe(experiment, data, module)], experiment, data


def test_defaults_are_the_first_experiment():
    experiment = Experiment()
    data = load(experiment)
    assert (data.inputs.shape, data.targets.shape) == ((1000, 10), (1000, 1))
    assert str(network(experiment, 10, data.outputs)) == str(
        nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))
    )
    assert steps_of(experiment, data) == 3200
    sizes = [len(batch.inputs) for batch in batches(Experiment(epochs=1), data)]
    assert sizes == [32] * 31 + [8]
    assert torch.equal(next(batches(experiment, data)).inputs, data.inputs[:32])


def test_records_are_those_of_plain_sgd_and_a_dense_hessian():
    got, experiment, data = records(epochs=2, dtype="float64", lr=0.1)
    module = network(experiment, 10, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss, _ = functional_loss(module, nn.MSELoss())
    for record, batch in zip(got, batches(experiment, data), strict=True):
        params = {name: p.detach().clone() for name, p in module.named_parameters()}
        truth = dense(loss, params, batch.inputs, batch.targets)
        expected = truth.quadratic_along(-0.1 * truth.gradient)
        optimizer.zero_grad()
        nn.functional.mse_loss(module(batch.inputs), batch.targets).backward()
        optimizer.step()
        after = loss({name: p.detach() for name, p in module.named_parameters()}, batch.inputs, batch.targets)
        norms = {f"step_norm.{name}": 0.1 * p.grad.norm().item() for name, p in module.named_parameters()}
        norm = 0.1 * truth.gradient.norm().item()
        promised = -expected.slope.item() - expected.curvature.item() / 2
        assert record.loss == pytest.approx(expected.value.item(), rel=1e-12)
        assert record.slope == pytest.approx(expected.slope.item(), rel=1e-12)
        assert record.curvature == pytest.approx(expected.curvature.item(), rel=1e-11)
        assert record.alpha_steps == pytest.approx(expected.alpha.item(), rel=1e-11)
        assert record.alpha_lr == pytest.approx(0.1 * expected.alpha.item(), rel=1e-11)
        assert record.loss_after == pytest.approx(after.item(), rel=1e-12)
        assert record.gain_ratio == pytest.approx((expected.value - after).item() / promised, rel=1e-9)
        assert {name: record.more[name] for name in norms} == pytest.approx(norms, rel=1e-12)
        assert record.step_norm == pytest.approx(norm, rel=1e-12)
        assert record.directional_sharpness == pytest.approx(expected.curvature.item() / norm**2, rel=1e-10)
        assert record.trained_slope == pytest.approx(expected.slope.item(), rel=1e-12)
        assert record.agrees is True


def test_every_kth_step_records_what_every_step_does_there():
    every_step, *_ = records(epochs=2)
    every_seventh, *_ = records(epochs=2, every=7)
    assert [record.step for record in every_seventh] == list(range(0, 64, 7))
    for record in every_seventh:
        assert record.loss == pytest.approx(every_step[record.step].loss, rel=1e-6)
        assert record.alpha_steps == pytest.approx(every_step[record.step].alpha_steps, rel=1e-4)


def test_stepping_by_alpha_descends_a_quadratic_to_its_minimum():
    got, *_ = records(lr="alpha", hidden=(), batch_size=1000, epochs=20, dtype="float64")
    assert [record.alpha_steps for record in got] == pytest.approx([1.0] * 20, rel=1e-12)
    assert [record.lr for record in got] == pytest.approx([record.alpha_lr for record in got], rel=1e-12)
    for record in got:
        vertex = record.loss - record.slope**2 / (2 * record.curvature)
        assert record.loss_after == pytest.approx(vertex, rel=1e-12)


def test_factor_scales_the_step_by_alpha():
    got, *_ = records(lr="alpha", factor=0.5, epochs=1)
    assert all(record.lr == pytest.approx(0.5 * record.alpha_lr, rel=1e-5) for record in got if record.curvature > 0)


def test_alpha_is_not_stepped_by_where_the_curvature_is_not_positive():
    got, *_ = records(lr="alpha", epochs=2, activation="sigmoid", hidden=(2,))
    assert any(record.curvature <= 0 for record in got), "no such step: choose another seed"
    assert all(record.lr > 0 for record in got)


RULED = {  # what the rate of a record is, by its loss, slope and curvature per learning rate
    "alpha": lambda h, s, c: -s / c,
    "cdat": lambda h, s, c: 2 * max(-s, 0) / abs(c),
    "polyak": lambda h, s, c: h / -s,
    "pal": lambda h, s, c: min(-s / c / 0.6, 10**0.5) if c > 0 else 0.1,
    "armijo": lambda h, s, c: 2.0 ** min(math.floor(math.log2(2 * (1 - 1e-4) * -s / c)), 0) if c > 0 else 1.0,
}


@pytest.mark.parametrize("name", RULED)
def test_every_step_is_as_long_as_its_rule_says(name):
    got, *_ = records(lr=name, epochs=1, dtype="float64", activation="tanh")
    for record in got:
        expected = RULED[name](record.loss, record.slope / record.lr, record.curvature / record.lr**2)
        assert record.lr == pytest.approx(expected, rel=1e-9)


def test_a_trusted_step_stays_within_the_radius_that_the_gain_ratios_make():
    got, *_ = records(lr="trusted", epochs=2, dtype="float64", activation="tanh")
    radius, shrunk = 1.0, 0
    for record in got:
        assert record.lr == pytest.approx(min(record.alpha_lr, radius), rel=1e-9)
        if record.gain_ratio < 0.01:
            radius, shrunk = 0.25 * record.lr, shrunk + 1
        elif record.gain_ratio >= 0.99 and record.lr >= radius * (1 - 1e-9):
            radius *= 3.5
    assert shrunk or radius > 1, "no such step: choose another seed"


def test_shuffling_uses_every_sample_once_an_epoch_in_another_order():
    experiment = Experiment(shuffle=True, epochs=2)
    data = load(experiment)
    drawn = torch.cat([batch.inputs for batch in batches(experiment, data)])
    first, second = drawn.split(1000)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(dim=0).values, data.inputs.sort(dim=0).values)


@pytest.mark.parametrize("settings", [{}, {"shuffle": True}, {"data": "digits", "batch_size": 256}], ids=str)
def test_a_run_repeats_bit_for_bit_and_leaves_the_global_rng(settings):
    before = torch.get_rng_state()
    first, *_ = records(epochs=1, **settings)
    torch.manual_seed(99)
    again, *_ = records(epochs=1, **settings)
    torch.set_rng_state(before)
    assert first == again


def test_command_line_leaves_table_configuration_and_pictures(tmp_path, capsys):
    out = tmp_path / "run"
    assert observe_cli("--data", "diabetes", "--epochs", 3, "--out", out) == 0
    assert {path.name for path in out.iterdir()} == FILES
    table = pd.read_csv(out / "steps.csv")
    assert len(table) == 3 * 14
    assert list(table.columns) == [
        *StepRecord._fields[:-1], "epoch", "batch", "optimizer",
        *(f"step_norm.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")),
    ]  # fmt: skip
    assert table.agrees.all()
    configuration = json.loads((out / "config.json").read_text())
    assert configuration["command"][:2] == ["alpha-func", "observe"]
    assert configuration["experiment"]["data"] == "diabetes"
    assert configuration["versions"]["torch"] == version("torch")
    for picture in ("alpha.png", "lines.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "median α*" in shown
    assert "42 of 42" in shown


def test_the_recorded_configuration_repeats_the_run(tmp_path):
    observe_cli("--epochs", 1, "--lr", "alpha", "--out", tmp_path / "a")
    again = json.loads((tmp_path / "a" / "config.json").read_text())["command"][1:]
    again[again.index(str(tmp_path / "a"))] = str(tmp_path / "b")
    assert main(again) == 0
    assert (tmp_path / "a" / "steps.csv").read_bytes() == (tmp_path / "b" / "steps.csv").read_bytes()


def test_verbose_prints_what_the_notebook_printed(tmp_path, capsys):
    observe_cli("--epochs", 11, "--batch-size", 500, "--verbose", "--out", tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert sum("step norms 0.weight" in line for line in lines) == 11
    assert [line.split(":")[0] for line in lines if ": loss" in line] == ["epoch 0, sgd", "epoch 10, sgd"]


def test_a_run_into_a_folder_of_a_run_is_refused_and_changes_nothing(tmp_path, capsys):
    observe_cli("--epochs", 1, "--out", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert observe_cli("--epochs", 2, "--out", tmp_path) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_classification_and_regression_from_a_csv_file(tmp_path):
    path = tmp_path / "iris.csv"
    path.write_text("a,b,kind\n" + "".join(f"{i % 7},{i % 5},{'even' if i % 2 else 'odd'}\n" for i in range(40)))
    assert observe_cli("--data", path, "--target", "kind", "--task", "classification", "--epochs", 1,
                       "--out", tmp_path / "c") == 0  # fmt: skip
    path.write_text("a,b,y\n" + "".join(f"{i % 7},{i % 5},{i}\n" for i in range(40)))
    assert observe_cli("--data", path, "--target", "y", "--epochs", 1, "--out", tmp_path / "r") == 0
    assert len(pd.read_csv(tmp_path / "r" / "steps.csv")) == 2


def test_real_data_is_standardised_and_a_constant_column_is_zero(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a,constant,y\n1,5,10\n2,5,20\n3,5,60\n")
    data = load(Experiment(data=str(path), target="y", dtype="float64"))
    assert data.inputs[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert data.inputs[:, 0].std(correction=0).item() == pytest.approx(1.0, rel=1e-12)
    assert data.targets.mean().item() == pytest.approx(0.0, abs=1e-12)


GOOD = "a,b,y\n1,2,3\n4,5,6\n"
BAD_FILES = {
    "text": ("a,b,y\n1,two,3\n", ["--target", "y"], r"text in column 'b' \(data row 1: 'two'\): --text one-hot"),
    "nan": ("a,b,y\n1,2,3\n1,,3\n", ["--target", "y"], r"missing values in column 'b' \(data row 2\): --missing drop"),
    "infinity": ("a,b,y\n1,2,inf\n", ["--target", "y"], r"infinity in column 'y' \(data row 1: inf\)"),
    "text target": ("a,y\n1,x\n", ["--target", "y"], r"--task classification"),
    "missing label": (
        "a,y\n1,x\n2,\n",
        ["--target", "y", "--task", "classification"],
        r"missing values in column 'y' \(data row 2\)",
    ),
    "no such target": (GOOD, ["--target", "z"], r"target 'z' is not a column of .*: it has a, b, y"),
    "no target": (GOOD, [], r"--target is missing: name the column"),
    "no rows": ("a,y\n", ["--target", "y"], r"no rows"),
    "target alone": ("y\n1\n", ["--target", "y"], r"target alone"),
    "empty": ("", ["--target", "y"], r"not a readable CSV"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_data_is_one_line_and_nothing_written(name, tmp_path, capsys):
    text, arguments, message = BAD_FILES[name]
    path = tmp_path / "data.csv"
    path.write_text(text)
    status = observe_cli("--data", path, *arguments, "--out", tmp_path / "run")
    assert_refused(status, capsys.readouterr().err, message, tmp_path / "run")


BAD_SETTINGS = {
    "missing file": (["--data", "no-such.csv"], r"no-such\.csv does not exist"),
    "batch size": (["--batch-size", "0"], r"batch size is 0"),
    "negative learning rate": (["--lr", "-1"], r"learning rate is -1"),
    "infinite learning rate": (["--lr", "inf"], r"learning rate is inf"),
    "learning rate in words": (["--lr", "fast"], r"'fast' is not a learning rate"),
    "epochs": (["--epochs", "0"], r"epochs is 0"),
    "every": (["--every", "0"], r"every is 0"),
    "hidden": (["--hidden", "5,0"], r"layer of size 0"),
    "strategy": (["--strategy", "fastest"], r"fastest.*reverse_over_reverse"),
    "target of a known set": (["--target", "y"], r"target is for a CSV file"),
    "task of a known set": (["--data", "digits", "--task", "regression"], r"digits is a classification"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_setting_is_one_line_and_nothing_written(name, tmp_path, capsys):
    arguments, message = BAD_SETTINGS[name]
    status = observe_cli(*arguments, "--out", tmp_path / "run")
    assert_refused(status, capsys.readouterr().err, message, tmp_path / "run")


def test_output_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    assert_refused(observe_cli("--out", out), capsys.readouterr().err, r"cannot write to .*choose another --out", out)


def test_a_strategy_that_pytorch_cannot_run_is_one_line_too(tmp_path, capsys):
    status = observe_cli("--strategy", "forward_over_reverse", "--out", tmp_path / "run")
    assert_refused(status, capsys.readouterr().err, r"mse_loss.*reverse_over_reverse", tmp_path / "run")


def test_divergence_is_recorded_as_it_is(tmp_path):
    assert observe_cli("--lr", "100", "--epochs", 2, "--out", tmp_path / "run") == 0
    table = pd.read_csv(tmp_path / "run" / "steps.csv")
    assert len(table) == 64
    assert not math.isfinite(table.loss.iloc[-1])
