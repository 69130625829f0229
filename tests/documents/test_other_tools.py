"""docs/other_tools.md: the part that needs matfree, which is no test dependency, runs where that is installed."""

import re

import pytest

from tests.documents.test_readme import ROOT, run

PAGE = ROOT / "docs/other_tools.md"


def test_the_part_of_matfree_runs_after_the_page(tmp_path, monkeypatch):
    pytest.importorskip("matfree")
    names = run(PAGE, tmp_path, monkeypatch)
    (block,) = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(block, str(PAGE), "exec"), names)
    (sharpness,) = names["eigsh"](names["hessian"], k=1, which="LA", return_eigenvectors=False)
    assert float(names["eigenvalues"][-1]) == pytest.approx(float(sharpness), rel=1e-3)
