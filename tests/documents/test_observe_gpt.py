"""The example of a loop of one's own runs as it is told to be run."""

import csv
import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "observe_gpt.py"


def test_the_small_gpt_learns_and_is_observed(tmp_path):
    path = tmp_path / "alpha.csv"
    command = [sys.executable, str(EXAMPLE), "--steps", "40", "--every", "10", "--csv", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "training continues" not in done.stderr
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "10", "20", "30"]
    assert len(done.stdout.splitlines()) == 1 + len(rows)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.4
    assert all(0 < float(row["cosine"]) < 1 for row in rows)
    assert float(rows[0]["lr"]) == 3e-3 / 4  # warming up
