"""``alpha-func observe --holdout-batch --full-data K``: the same direction on other samples than its own."""

import math
import re

import pandas as pd
import pytest
import torch
from torch import nn

from alpha_func import functional_loss
from alpha_func.experiment.data import load
from alpha_func.experiment.minibatches import batches
from alpha_func.experiment.other_samples import NAMES
from alpha_func.experiment.settings import Experiment, network
from tests.helpers.command_line import assert_refused
from tests.helpers.command_line import observe as observe_cli
from tests.helpers.reference import dense, flat


@pytest.mark.parametrize(("name", "strategy"), [("sgd", "reverse_over_reverse"), ("adam", "captured")])
def test_both_are_the_live_step_on_a_dense_hessian_of_those_samples(name, strategy, tmp_path):
    settings = {"optimizers": (name,), "epochs": 1, "dtype": "float64", "lr": 0.03, "batch_size": 150}
    arguments = ["--optimizer", name, "--epochs", 1, "--dtype", "float64", "--lr", 0.03, "--batch-size", 150]
    asked = ["--strategy", strategy, "--holdout-batch", "--full-data", 3]
    assert observe_cli(*arguments, *asked, "--out", tmp_path / "run") == 0
    table = pd.read_csv(tmp_path / "run" / "steps.csv")
    experiment = Experiment(**settings)
    data = load(experiment)
    module = network(experiment, 10, 1)
    (optimizer,) = experiment.algorithms()[0].optimizers(module)
    loss, _ = functional_loss(module, nn.MSELoss())
    pieces = list(batches(experiment, data))
    assert [len(piece.inputs) for piece in pieces] == [150] * 6 + [100]
    for k, batch in enumerate(pieces):
        before = {key: p.detach().clone() for key, p in module.named_parameters()}
        module.zero_grad()
        nn.functional.mse_loss(module(batch.inputs), batch.targets).backward()
        optimizer.step()
        d = flat({key: p.detach() for key, p in module.named_parameters()}) - flat(before)
        after = pieces[(k + 1) % 7]  # the last one's is the first
        expected = {"held_out": (after.inputs, after.targets)} | (
            {} if k % 3 else {"full": (data.inputs, data.targets)}
        )
        for where, samples in expected.items():
            q = dense(loss, before, *samples).quadratic_along(d)
            for column, number in zip(NAMES, (*q, q.alpha, 0.03 * q.alpha), strict=True):
                assert table[f"{where}_{column}"][k] == pytest.approx(float(number), rel=1e-9), (where, column, k)
        assert math.isnan(table.full_alpha_lr[k]) == bool(k % 3)


def test_they_change_nothing_of_what_else_is_recorded(tmp_path):
    base = ["--epochs", 1, "--batch-size", 150, "--optimizer", "sgd,adam"]
    observe_cli(*base, "--out", tmp_path / "plain")
    observe_cli(*base, "--holdout-batch", "--full-data", 3, "--out", tmp_path / "more")
    plain, more = (pd.read_csv(tmp_path / name / "steps.csv") for name in ("plain", "more"))
    assert list(more.columns) == [
        *plain.columns,
        *(f"{where}_{name}" for where in ("held_out", "full") for name in NAMES),
    ]
    pd.testing.assert_frame_equal(more[plain.columns], plain)


def test_the_report_gives_the_median_of_each_and_the_bias_shows(tmp_path, capsys):
    arguments = ["--data", "diabetes", "--hidden", 8, "--epochs", 12, "--holdout-batch", "--full-data", 1]
    assert observe_cli(*arguments, "--out", tmp_path / "run") == 0
    table = pd.read_csv(tmp_path / "run" / "steps.csv")
    shown = capsys.readouterr().out
    for where, column in (("", "alpha"), (" on a held-out batch", "held_out_alpha"), (" on all samples", "full_alpha")):
        (number,) = re.findall(rf"median α\*{where} +(-?\d\S*)", shown)
        assert float(number) == pytest.approx(table[f"{column}_lr"].median(), rel=1e-3)
    # Of the same batch, the slope holds the noise that the direction was made of; of others it does not.
    assert table.alpha_lr.median() > 1.5 * table.full_alpha_lr.median() > 0
    means = table[["slope", "held_out_slope", "full_slope"]].mean()
    assert means.slope < 1.3 * means.full_slope < 0
    assert means.held_out_slope == pytest.approx(means.full_slope, abs=0.5 * abs(means.slope - means.full_slope))


@pytest.mark.parametrize("optimizers", ["sgd", "sgd,adam"])
def test_they_are_drawn(optimizers, tmp_path, monkeypatch):
    from alpha_func.experiment import alpha_picture

    drawn = []
    monkeypatch.setattr(alpha_picture, "save", lambda figure, path: drawn.append(figure))
    arguments = ["--data", "diabetes", "--epochs", 8, "--optimizer", optimizers, "--holdout-batch", "--full-data", 4]
    assert observe_cli(*arguments, "--out", tmp_path / "run") == 0
    axes = drawn[0].axes[0]
    legends = [axes.get_legend(), *drawn[0].legends]
    labels = [text.get_text() for legend in legends if legend is not None for text in legend.get_texts()]
    for name in ("a held-out batch", "all samples"):
        assert any(f"on {name}" in label for label in labels), labels
    styles = [line.get_linestyle() for line in axes.get_lines() if len(line.get_xdata())]
    assert styles.count("-.") == len(optimizers.split(",")) <= styles.count("--")


BAD = {
    "zero": (["--full-data", "0"], r"full data is 0: give a whole number of at least 1"),
    "negative": (["--full-data", "-3"], r"full data is -3: give a whole number of at least 1"),
    "words": (["--full-data", "all"], r"'all' is not a whole number"),
    "off the recorded steps": (
        ["--full-data", "5", "--every", "2"],
        r"full data is 5, but every 2-th.*a multiple of 2",
    ),
    "one batch": (
        ["--holdout-batch", "--batch-size", "1000"],
        r"holdout batch needs two batches, .* 1000 samples, .*--batch-size of at most 500",
    ),
    "more than the data": (["--holdout-batch", "--batch-size", "4000", "--data", "diabetes"], r"442 samples.*most 221"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_use_is_one_line_and_nothing_written(name, tmp_path, capsys):
    arguments, message = BAD[name]
    status = observe_cli(*arguments, "--out", tmp_path / "run")
    assert_refused(status, capsys.readouterr().err, message, tmp_path / "run")


def test_a_batch_that_is_all_samples_can_be_measured_on_all(tmp_path):
    assert observe_cli("--batch-size", 1000, "--epochs", 3, "--full-data", 1, "--out", tmp_path / "run") == 0
    table = pd.read_csv(tmp_path / "run" / "steps.csv")
    assert torch.allclose(torch.tensor(table.alpha_lr), torch.tensor(table.full_alpha_lr), rtol=1e-5)
