"""``alpha-func resume``: a run that was interrupted or killed ends as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from alpha_func.experiment import run as runs
from alpha_func.experiment.cli import main
from tests.experiment.test_faults import interrupted_at

RUNS = {
    "sgd": [],
    "shuffled": ["--shuffle", "--every", "2"],
    "several": ["--optimizer", "sgd,momentum,adam,muon", "--shuffle"],
    "by the average of alpha": ["--optimizer", "adam", "--lr", "alpha", "--ema", "0.7"],
    "by cdat": ["--optimizer", "sgd,adam:lr=cdat", "--lr", "polyak", "--ema", "0.7", "--factor", "1.5"],
    "by a trust region": ["--lr", "trusted", "--every", "2"],
    "elsewhere": ["--holdout-batch", "--full-data", "3", "--dtype", "float64"],
}
BASE = ["--strategy", "reverse_over_reverse", "--epochs", "3", "--batch-size", "150", "--no-pictures"]  # 21 steps


def cli(*arguments):
    return main([*map(str, arguments)])


@pytest.mark.parametrize(("name", "step"), [("several", 6), *((name, 7) for name in RUNS)])
def test_a_resumed_run_is_the_run_in_one_go_bit_for_bit(tmp_path, monkeypatch, name, step):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert cli("observe", *BASE, *RUNS[name], "--out", whole) == 0
    interrupted_at(monkeypatch, step)
    assert cli("observe", *BASE, *RUNS[name], "--out", torn) == 130
    assert cli("resume", torn, "--no-pictures") == 0
    for file in ("steps.csv", "lines.jsonl"):
        assert (torn / file).read_bytes() == (whole / file).read_bytes()
    assert not (torn / "state.pt").exists()


def test_a_killed_run_goes_on_from_the_last_state_on_disk(tmp_path, monkeypatch):
    """Rows and a torn one that came after it are done again."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert cli("observe", *BASE, "--out", whole) == 0
    interrupted_at(monkeypatch, 9)
    assert cli("observe", *BASE, "--out", torn) == 130
    with (torn / "steps.csv").open("a") as file:
        file.write("9,0.5,0.1\n10,0.4")
    assert cli("resume", torn, "--no-pictures") == 0
    assert (torn / "steps.csv").read_bytes() == (whole / "steps.csv").read_bytes()


def test_a_run_without_a_state_begins_anew(tmp_path, monkeypatch):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert cli("observe", *BASE, "--out", whole) == 0
    interrupted_at(monkeypatch, 4)
    assert cli("observe", *BASE, "--out", torn) == 130
    (torn / "state.pt").unlink()
    assert cli("resume", torn, "--no-pictures") == 0
    assert (torn / "steps.csv").read_bytes() == (whole / "steps.csv").read_bytes()


def test_states_are_kept_now_and_then_and_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "KEPT_EVERY", 0.0)
    kept = []
    write = runs.written_whole

    def written(path, content):
        write(path, content)
        kept.append(torch.load(path, weights_only=True)["step"])

    monkeypatch.setattr(runs, "written_whole", written)
    assert cli("observe", *BASE, "--out", tmp_path / "run") == 0
    assert kept[0] == 0
    assert kept == sorted(kept)


def test_only_a_run_that_can_go_on_is_gone_on_with(tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert cli("resume", *arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        return error

    assert "holds no run to resume" in refused(tmp_path)
    cli("observe", *BASE, "--out", tmp_path / "done")
    assert "is finished" in refused(tmp_path / "done")
    interrupted_at(monkeypatch, 3)
    cli("observe", *BASE, "--out", tmp_path / "torn")
    before = {path: path.read_bytes() for path in (tmp_path / "torn").iterdir()}
    capsys.readouterr()
    (tmp_path / "torn" / "state.pt").write_bytes(b"torn")
    assert "cannot be resumed" in refused(tmp_path / "torn")
    (tmp_path / "torn" / "state.pt").write_bytes(before[tmp_path / "torn" / "state.pt"])
    configuration = json.loads((tmp_path / "torn" / "config.json").read_text())
    (tmp_path / "torn" / "config.json").write_text(json.dumps({**configuration, "data": "another"}))
    assert "is not the data that the run" in refused(tmp_path / "torn")
    (tmp_path / "torn" / "config.json").write_text("{")
    assert "is not the configuration of a run" in refused(tmp_path / "torn")
    assert (tmp_path / "torn" / "steps.csv").read_bytes() == before[tmp_path / "torn" / "steps.csv"]


def test_a_run_that_is_still_going_is_left_alone(tmp_path):
    command = [sys.executable, "-m", "alpha_func", "observe", "--epochs", "1e9", "--out", str(tmp_path / "run")]
    steps = tmp_path / "run" / "steps.csv"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (steps.exists() and steps.read_bytes().count(b"\n") > 20):
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.05)
        assert cli("resume", tmp_path / "run") == 2
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    table = pd.read_csv(steps)
    assert steps.read_bytes().endswith(os.linesep.encode())
    assert not table.drop(columns="gain_ratio").isna().any(axis=None)
    assert table.step.tolist() == list(range(len(table)))
