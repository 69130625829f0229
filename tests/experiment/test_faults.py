"""What goes wrong around a command line: its input, its disk, its terminal, a signal at any moment."""

import bz2
import errno
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alpha_func.experiment import folder as folders
from alpha_func.experiment import plot, training
from alpha_func.experiment import run as runs
from alpha_func.experiment.data import load
from alpha_func.experiment.settings import Experiment
from alpha_func.observer.line_file import LineFile
from tests.experiment.faulty import BAD_OPTIONS, GERMAN, GOOD, REFUSED
from tests.helpers.command_line import alpha_func as cli
from tests.helpers.command_line import assert_refused

QUICK = ("--strategy", "reverse_over_reverse", "--epochs", "1", "--batch-size", "250")  # 4 steps
FILES = {"steps.csv", "config.json", "lines.jsonl", "alpha.png", "lines.png"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_faulty_table_is_one_line_and_nothing_written(name, tmp_path, capsys):
    text, options, message = REFUSED[name]
    path, out = tmp_path / "data.csv", tmp_path / "run"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    status = cli("observe", "--data", path, "--target", "y", *options, "--out", out)
    assert_refused(status, capsys.readouterr().err, message, out)


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_one_line_and_nothing_written(name, tmp_path, capsys):
    options, message = BAD_OPTIONS[name]
    status = cli("observe", *options, "--out", tmp_path / "run")
    assert_refused(status, capsys.readouterr().err, message, tmp_path / "run")


def loaded(path, content, **settings):
    path.write_text(content)
    return load(Experiment(data=str(path), target="y", dtype="float64", **settings))


def test_a_german_table_is_the_same_table(tmp_path):
    german = loaded(tmp_path / "a.csv", GERMAN, separator=";", decimal=",")
    english = loaded(tmp_path / "b.csv", GERMAN.replace(",", ".").replace(";", ","))
    assert german.inputs.tolist() == english.inputs.tolist()
    assert german.targets.tolist() == english.targets.tolist()


def test_texts_become_columns_of_zero_and_one(tmp_path):
    data = loaded(tmp_path / "a.csv", "a,c,y\n1,red,1\n2,blue,2\n3,red,3\n4,green,4\n", text="one-hot")
    assert data.inputs.shape == (4, 4)  # a, blue, green, red
    assert (data.inputs[:, 3] > 0).tolist() == [True, False, True, False]


def test_rows_with_missing_values_are_left_out_and_told_of(tmp_path):
    data = loaded(tmp_path / "a.csv", "a,b,y\n1,2,1\n,3,2\n3,4,\n5,7,6\n", missing="drop")
    assert data.inputs.shape == (2, 2)
    assert data.notes == ("2 of 4 rows left out: they have missing values",)


def test_missing_inputs_are_filled_in_by_the_mean_and_targets_are_not(tmp_path):
    data = loaded(tmp_path / "a.csv", "a,b,y\n1,2,1\n,3,2\n3,4,\n5,7,6\n", missing="mean")
    assert data.inputs.shape == (3, 2)
    assert abs(data.inputs[1, 0].item()) < 1e-15  # the mean, standardised
    assert "missing values of a filled in by the mean" in data.notes


def test_a_column_that_counts_the_rows_is_no_feature(tmp_path):
    pd.DataFrame({"a": [3, 1, 2], "y": [1, 5, 2]}).to_csv(tmp_path / "t.csv")
    data = loaded(tmp_path / "t2.csv", (tmp_path / "t.csv").read_text())
    assert data.inputs.shape == (3, 1)
    assert data.notes == ("column 1 has no name and counts the rows: left out",)
    twice = pd.read_csv(tmp_path / "t.csv").to_csv()  # Unnamed: 0
    assert loaded(tmp_path / "t3.csv", twice).inputs.shape == (3, 1)


@pytest.mark.parametrize("value", [0.1, 1e300, -1e-300, 1e17, 0.0])
@pytest.mark.parametrize("rows", [2, 7, 1000])
def test_a_constant_column_is_zero_whatever_its_rounding(tmp_path, value, rows):
    text = "a,b,y\n" + "".join(f"{value!r},{k},{k}\n" for k in range(rows))
    data = loaded(tmp_path / "a.csv", text)
    assert not data.inputs[:, 0].any()
    assert "constant, so 0 in every row: a" in data.notes


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1.0, 1e150])
def test_a_column_of_any_size_is_standardised(tmp_path, scale):
    data = loaded(tmp_path / "a.csv", "a,y\n" + "".join(f"{scale * (-1) ** k!r},{k * scale!r}\n" for k in range(8)))
    assert data.inputs.flatten().tolist() == [1.0, -1.0] * 4
    assert data.targets.std(correction=0).item() == pytest.approx(1.0, rel=1e-12)


def test_classes_can_be_trained_by_squares(tmp_path):
    text = "a,y\n" + "".join(f"{k},{'no' if k % 3 else 'yes'}\n" for k in range(9))
    data = loaded(tmp_path / "a.csv", text, task="classification", loss="mse")
    assert data.targets.tolist() == [[0.0, 1.0] if k % 3 == 0 else [1.0, 0.0] for k in range(9)]


COMPRESSED = {".gz": gzip.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_compressed_file_is_read_and_a_torn_one_refused(tmp_path, capsys, suffix):
    path = tmp_path / f"data.csv{suffix}"
    path.write_bytes(COMPRESSED[suffix](GOOD.encode()))
    assert load(Experiment(data=str(path), target="y")).inputs.shape == (40, 2)
    path.write_bytes(path.read_bytes()[:-20])
    status = cli("observe", "--data", path, "--target", "y", "--out", tmp_path / "run")
    assert_refused(status, capsys.readouterr().err, r"is cut off or damaged .*: download it again", tmp_path / "run")


def test_no_archive_is_refused(tmp_path, capsys):
    path = tmp_path / "data.zip"
    path.write_bytes(b"PK no")
    status = cli("observe", "--data", path, "--target", "y", "--out", tmp_path / "run")
    assert_refused(status, capsys.readouterr().err, r"cut off or damaged", tmp_path / "run")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.csv", GOOD)
    assert load(Experiment(data=str(path), target="y")).inputs.shape == (40, 2)


def test_stdin_and_pipes_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    from_stdin = load(Experiment(data="-", target="y"))
    (tmp_path / "data.csv").write_text(GOOD)
    assert from_stdin.inputs.equal(load(Experiment(data=str(tmp_path / "data.csv"), target="y")).inputs)


def test_a_full_batch_is_all_samples_at_every_step(tmp_path):
    out = tmp_path / "run"
    assert cli("observe", *QUICK[:4], "--full-batch", "--no-pictures", "--out", out) == 0
    assert len(pd.read_csv(out / "steps.csv")) == 1


def test_a_diverged_run_says_so_and_its_shares_are_of_finite_steps(tmp_path, capsys):
    assert cli("observe", *QUICK, "--lr", "1e30", "--out", tmp_path / "run") == 0
    shown = capsys.readouterr().out
    assert "sgd diverged: its loss is not finite at step 1" in shown
    assert re.search(r"of them finite +1 *\n", shown)
    assert re.search(r"beyond the edge \(lr/α\* > 2\) +100\.0% of finite steps", shown)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_names_are_not_markup(tmp_path, capsys):
    path = tmp_path / "[red]a$b$_{x}[bold].csv"
    path.write_text(GOOD)
    out = tmp_path / "$x^[bold]$ :smile:"
    assert cli("observe", *QUICK, "--data", path, "--target", "y", "--out", out) == 0
    assert str(out) in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == FILES


def test_two_runs_cannot_begin_in_one_folder(tmp_path, capsys, monkeypatch):
    """The other takes the folder after this one looked, and before it writes."""
    make, status = Path.mkdir, []

    def late(path, *args, **options):
        make(path, *args, **options)
        monkeypatch.setattr(Path, "mkdir", make)
        status.append(cli("observe", *QUICK, "--no-pictures", "--seed", 1, "--out", tmp_path / "run"))

    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.parent != tmp_path / "run" and exists(path))
    monkeypatch.setattr(Path, "mkdir", late)
    assert cli("observe", *QUICK, "--no-pictures", "--out", tmp_path / "run") == 2
    assert status == [0]
    assert "already holds a run (config.json)" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["experiment"]["seed"] == 1


def interrupted_at(monkeypatch, step, number=signal.SIGINT):
    """A signal within the work of a step."""
    take = training.Training.step

    def stepped(self, batch):
        if batch.step == step:
            monkeypatch.setattr(training.Training, "step", take)
            os.kill(os.getpid(), number)
        return take(self, batch)

    def not_the_first(self, batch):  # a run takes its first step once more, to see whether it can
        monkeypatch.setattr(training.Training, "step", stepped)
        return take(self, batch)

    monkeypatch.setattr(training.Training, "step", not_the_first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_rows_and_draws_them(tmp_path, capsys, monkeypatch, number):
    interrupted_at(monkeypatch, 2, number)
    assert cli("observe", *QUICK, "--out", tmp_path / "run") == 130
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {"state.pt"}
    assert pd.read_csv(tmp_path / "run" / "steps.csv").step.tolist() == [0, 1]
    shown = capsys.readouterr().out
    assert "the 2 rows recorded so far are kept" in shown
    assert f"alpha-func resume {tmp_path / 'run'}" in shown


def test_an_interrupt_while_it_draws_says_what_is_there_and_plot_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plot, "draw_lines", lambda *args, **options: os.kill(os.getpid(), signal.SIGINT))
    assert cli("observe", *QUICK, "--out", tmp_path / "run") == 130
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert re.search(r"interrupted: 4 rows are in \S+; alpha-func plot \S+ draws them", " ".join(said.err.split()))
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"lines.png"}
    monkeypatch.undo()
    assert cli("plot", tmp_path / "run", "--format", "svg") == 0
    assert {"alpha.svg", "lines.svg"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_an_interrupt_while_it_sums_up_says_what_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "course", lambda *args: os.kill(os.getpid(), signal.SIGINT))
    assert cli("observe", *QUICK, "--out", tmp_path / "run") == 130
    assert "interrupted: 4 rows are in" in capsys.readouterr().err


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_is_one_line_and_keeps_the_rows(tmp_path, capsys, monkeypatch):
    write, written = LineFile.write, []

    def until_full(self, line):
        written.append(line)
        return write(self, line) if len(written) < 5 else full()  # a header, three rows or two and their lines

    monkeypatch.setattr(LineFile, "write", until_full)
    assert cli("observe", *QUICK, "--no-pictures", "--out", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(r"cannot write to .*: No space left on device; the \d rows recorded so far are kept", error)
    assert len(pd.read_csv(tmp_path / "run" / "steps.csv")) > 0


def test_a_disk_that_fills_while_it_draws_leaves_no_half_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folders.os, "fsync", full)
    assert cli("observe", *QUICK, "--out", tmp_path / "run") == 1
    assert re.search(r"cannot draw the pictures: No space left on device; 4 rows are in", capsys.readouterr().err)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"alpha.png", "lines.png"}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("command", [["--help"], ["observe", "--help"], ["observe", *QUICK, "--verbose"]], ids=str)
def test_every_word_can_be_written_in_any_encoding(tmp_path, monkeypatch, encoding, command):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    more = [] if "--help" in command else ["--no-pictures", "--out", tmp_path / "run"]
    assert cli(*command, *more) == 0
    shown = out.getvalue().decode(encoding)
    assert ("α*" if encoding == "utf-8" else "alpha*") in shown


class Closed(io.StringIO):
    """A pipe whose reader leaves after the first line."""

    lines = 0

    def write(self, text):
        self.lines += text.count("\n")
        if self.lines > 1:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return len(text)


def test_a_reader_that_leaves_is_an_interrupt(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed())
    assert cli("observe", *QUICK, "--epochs", 3, "--verbose", "--out", tmp_path / "run") == 130
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {"state.pt"}
    said = capsys.readouterr().err
    assert "steps recorded" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("columns", [60, 100])
def test_tables_fit_the_terminal_and_cut_no_number(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    arguments = ["--optimizer", "sgd,momentum,adam:lr=0.001:betas=0.9/0.99", "--holdout-batch", "--no-pictures"]
    assert cli("observe", *QUICK, *arguments, "--out", tmp_path / "run") == 0
    table = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("wrote", "data"))]
    assert max(map(len, table)) <= columns
    assert "…" not in "".join(table)
    rows = pd.read_csv(tmp_path / "run" / "steps.csv")
    for label in rows.optimizer.unique():
        assert f"{rows[rows.optimizer == label].alpha_lr.median():.4g}" in "".join(table)


@pytest.mark.parametrize("command", ["observe", "plot", "resume"])
def test_defaults_are_said_once_and_never_as_none(capsys, command):
    cli(command, "--help")
    shown = capsys.readouterr().out
    assert "None" not in shown
    assert not re.search(r"\(default[^()]*\)\s*\(default", shown)


def test_a_whole_number_may_be_written_as_1e1(tmp_path):
    arguments = ["observe", *QUICK[:2], "--epochs", "1e1", "--batch-size", "1e3", "--no-pictures"]
    assert cli(*arguments, "--out", tmp_path / "run") == 0
    assert len(pd.read_csv(tmp_path / "run" / "steps.csv")) == 10


def test_stepping_by_the_moving_average_is_that_of_the_records(tmp_path):
    arguments = ["--lr", "alpha", "--factor", "0.5", "--ema", "0.8", "--dtype", "float64", "--no-pictures"]
    assert cli("observe", *QUICK, *arguments, "--epochs", 5, "--out", tmp_path / "run") == 0
    rows = pd.read_csv(tmp_path / "run" / "steps.csv")
    total = weight = 0.0
    for alpha, lr in zip(rows.alpha_lr, rows.lr, strict=True):
        total, weight = 0.8 * total + 0.2 * alpha, 0.8 * weight + 0.2
        assert lr == pytest.approx(0.5 * total / weight, rel=1e-9)


def test_an_interrupt_while_pytorch_is_imported_is_one_line(tmp_path):
    """The signal comes at the first import that follows the command line's own."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    path = os.pathsep.join([str(tmp_path), *map(str, sys.path)])
    command = [sys.executable, "-m", "alpha_func", "observe"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "alpha-func: interrupted while it started; nothing was written\n")


def test_the_ratio_of_times_is_left_out_where_it_means_nothing(tmp_path, capsys):
    assert cli("observe", *QUICK, "--no-pictures", "--out", tmp_path / "run") == 0  # of 4 steps
    assert "time per step" not in capsys.readouterr().out


def test_numbers_of_the_summary_are_those_of_the_table(tmp_path, capsys):
    arguments = ["--data", "diabetes", "--epochs", 8, "--lr", 0.5, "--ema", 0.9, "--no-pictures"]
    assert cli("observe", *QUICK[:2], *arguments, "--out", tmp_path / "run") == 0
    rows, shown = pd.read_csv(tmp_path / "run" / "steps.csv"), capsys.readouterr().out
    average = rows.alpha_lr.ewm(alpha=0.1).mean().iloc[-1]
    for name, value in {
        "steps recorded": f"{len(rows)} of {len(rows)}",
        r"median α\*": f"{np.median(rows.alpha_lr):.4g}",
        r"moving average of α\*": f"{average:.4g}",
        "curvature ≤ 0": f"{(rows.curvature <= 0).mean():.1%} of steps",
        r"beyond the edge \(lr/α\* > 2\)": f"{(rows.lr / rows.alpha_lr > 2).mean():.1%} of steps",
    }.items():
        assert re.search(rf"^{name} +{re.escape(value)} *$", shown, re.MULTILINE), (name, value, shown)
