"""Every line of Python in the README runs."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[2] / "README.md"


def test_the_python_of_the_readme_runs(capsys):
    torch.manual_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert capsys.readouterr().out.count("α*") == 101
    assert names["alphas"].shape == (7,)


def test_the_first_example_is_under_15_lines():
    first = re.search(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)[1]
    assert len(first.splitlines()) < 15
