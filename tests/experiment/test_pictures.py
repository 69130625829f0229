"""Pictures from files of records, of one's own loop too."""

import json

import numpy as np
import pandas as pd
import pytest

from alpha_func.experiment import alpha_picture
from alpha_func.experiment.cli import main
from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.plot import plot_records
from alpha_func.experiment.record_files import read_records
from alpha_func.experiment.series import running
from alpha_func.observer import StepRecord
from alpha_func.observer.loggers import CSVLog, JSONLinesLog


def table(count=60, **columns):
    rng = np.random.default_rng(0)
    numbers = {name: rng.uniform(0.5, 2, count) for name in StepRecord._fields[1:16]}
    return pd.DataFrame({"step": np.arange(count), **numbers, "agrees": True, **columns})


@pytest.fixture
def drawn(monkeypatch):
    """The figure that would have been written."""
    figures = []
    monkeypatch.setattr(alpha_picture, "save", lambda figure, path: figures.append(figure))
    return figures


@pytest.mark.parametrize("kind", [CSVLog, JSONLinesLog])
def test_a_file_of_records_is_read_without_its_torn_end(tmp_path, kind):
    path = tmp_path / "records"
    log, rows = kind(path), table(5)
    for row in rows.itertuples(index=False):
        log(StepRecord(*row))
    log.close()
    whole = read_records(path)
    np.testing.assert_allclose(whole[rows.columns[:16]], rows[rows.columns[:16]].astype(float))
    with path.open("a") as file:
        file.write('5,0.1,"' if kind is CSVLog else '{"step": 5, "lo')
    pd.testing.assert_frame_equal(read_records(path), whole)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_draws_a_file_in_every_format(tmp_path, suffix):
    table().to_csv(tmp_path / "a$b$_[x].csv", index=False)
    out = tmp_path / f"alpha.{suffix}"
    assert main(["plot", str(tmp_path / "a$b$_[x].csv"), "--out", str(out)]) == 0
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert out.read_bytes().startswith(begins[suffix])


BAD = {
    "no file": (None, "cannot read .*: No such file"),
    "no records": ("a,b\n1,2\n", "is not a file of records: it lacks step, loss, alpha_steps"),
    "no rows": ("step,loss,alpha_steps\n", "has no rows yet"),
    "nothing": ("", "is not a file of records"),
    "no table": ("\x00\x01\n,,,\n", "is not a file of records"),
    "no json": ("{\n}\n", "is not a file of records"),
    "steps in words": ("step,loss,alpha_steps\nx,1,2\n", "its steps are not all numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_file_of_records_is_refused(tmp_path, name):
    text, message = BAD[name]
    if text is not None:
        (tmp_path / "file").write_text(text)
    with pytest.raises(InputError, match=message):
        plot_records(tmp_path / "file", tmp_path / "alpha.png")


def test_a_running_median_is_over_full_windows_alone():
    values = np.array([9.0, 1, 2, 3, 4, 5, 90])
    at, (median,) = running(np.arange(7.0), values, 5)
    assert at.tolist() == [2, 3, 4]
    assert median.tolist() == [3, 3, 4]


def test_three_optimizers_differ_in_every_panel_by_color_and_dashes(drawn):
    rows = table(90, optimizer=["sgd", "adam", "muon"] * 30)
    plot_records(rows, "alpha.png")
    for axes in drawn[0].axes:
        lines = [line for line in axes.get_lines() if np.size(line.get_xdata()) > 2]
        assert len({line.get_color() for line in lines}) == 3
        assert len({str(line._dash_pattern) for line in lines}) == 3


def test_a_learning_rate_that_is_alpha_does_not_hide_the_points(drawn):
    rows = table(alpha_lr=np.linspace(1, 2, 60))
    plot_records(rows.assign(lr=rows.alpha_lr), "alpha.png")
    (axes,) = (axes for axes in drawn[0].axes if axes.get_title(loc="left") == "Optimal step size α*")
    assert "the learning rate is α*" in [text.get_text() for text in axes.get_legend().get_texts()]
    plot_records(rows.assign(lr=rows.alpha_lr / 2), "alpha.png")
    points, line = (
        next(line for line in drawn[1].axes[0].get_lines() if wanted(line))
        for wanted in (lambda line: line.get_marker() == ".", lambda line: line.get_label() == "learning rate")
    )
    assert line.get_zorder() < points.get_zorder()


def test_steps_that_measured_another_loss_are_marked(drawn):
    rows = table(agrees=[False, True] * 30)
    plot_records(rows, "alpha.png")
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert "measured another loss than was trained: 30 of 60 steps" in labels


def test_a_run_of_an_unfinished_or_foreign_configuration_is_drawn(tmp_path):
    table().assign(optimizer="sgd").to_csv(tmp_path / "steps.csv", index=False)
    (tmp_path / "config.json").write_text(json.dumps({"experiment": {"data": [3]}}))
    assert main(["plot", str(tmp_path)]) == 0
    assert (tmp_path / "alpha.png").exists()
