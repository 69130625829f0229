"""The notebook of examples/ runs as its reader would run it, and what its text says is what it prints."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "examples" / "optimal_alpha.py"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    notebook = tmp_path_factory.mktemp("notebook") / "optimal_alpha.ipynb"
    command = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--execute", "--output", notebook, SOURCE]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    return json.loads(notebook.read_text())["cells"]


def test_the_notebook_prints_and_draws(cells):
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert [output["output_type"] for output in outputs].count("display_data") == 5
    assert not any(output.get("name") == "stderr" for output in outputs)


def test_every_number_of_its_text_was_printed(cells):
    printed = "".join(
        "".join(output["text"]) for cell in cells for output in cell.get("outputs", []) if "text" in output
    )
    explained = [cell for cell in cells if cell["cell_type"] == "markdown" and "median" in "".join(cell["source"])]
    numbers = {number for cell in explained for number in re.findall(r"\d+\.\d+", "".join(cell["source"]))}
    assert len(numbers) > 15
    assert numbers - set(re.findall(r"\d+\.\d+", printed)) == {"0.01"}  # the learning rate
