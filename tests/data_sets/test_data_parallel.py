"""The examples of many processes run as they are told to be run, and say the same however many there are."""

import csv
import os
import re
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


def test_parameters_that_no_process_holds_give_the_whole_quadratic():
    command = [sys.executable, *TORCHRUN, str(EXAMPLES / "sharded_parameters.py"), "--width", "15", "--depth", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr  # 1 where a number is off by 1e-11
    kept, whole = re.search(r"parameters (\S+) MB, of which each of 2 processes keeps (\S+) MB", done.stdout).groups()[
        ::-1
    ]
    assert float(kept) == pytest.approx(float(whole) / 2, abs=0.011)
    assert len(set(re.findall(r"(?:α\*|model) (\d\S+?),?\s", done.stdout))) == 1, done.stdout
