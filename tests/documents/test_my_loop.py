"""Every line of Python in docs/my_loop.md runs, and every loop of it is measured as it was trained."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "my_loop.md"


def test_the_python_of_the_page_runs(capsys):
    torch.manual_seed(0)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert capsys.readouterr().out.count("True") == 3
