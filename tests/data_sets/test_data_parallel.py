"""The examples of many processes run as they are told to be run, and say the same however many there are."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = str(EXAMPLES / "data_parallel.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def rows(path, *launcher):
    command = [sys.executable, *launcher, EXAMPLE, "--steps", "21", "--every", "10", "--csv", str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_two_processes_under_torchrun_train_and_measure_as_one_does(tmp_path):
    two, one = rows(tmp_path / "two.csv", *TORCHRUN), rows(tmp_path / "one.csv")
    assert [row["step"] for row in two] == [0, 10, 20]
    for a, b in zip(two, one, strict=True):
        assert a == pytest.approx(b, rel=1e-11)
    assert two[-1]["loss"] < two[0]["loss"] / 4
    assert all(0 < row["alpha_all"] < row["alpha_batch"] for row in two)


def test_a_gpt_that_no_process_holds_whole_is_trained_and_observed(tmp_path):
    path = tmp_path / "alpha.csv"
    command = [sys.executable, *TORCHRUN, str(EXAMPLES / "sharded_gpt.py"), "--steps", "11", "--every", "5"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--csv", str(path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "training continues" not in done.stderr
    assert "the last is of 2 processes" in done.stdout
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["agrees"]) for row in rows] == [("0", "True"), ("5", "True"), ("10", "True")]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_the_example_of_sharded_parameters_is_under_60_lines():
    assert len((EXAMPLES / "sharded_gpt.py").read_text().splitlines()) < 60
