"""Every line of Python in the README and in the pages of docs/ runs, and every link leads somewhere."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks_of(page, fence="python"):
    return re.findall(rf"^```{fence}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def run(page, folder, monkeypatch, fence="python"):
    """Every block in order, in one namespace, away from the checkout."""
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    names = {}
    for block in blocks_of(page, fence):
        exec(compile(block, str(page), "exec"), names)
    return names


def test_the_python_of_the_readme_runs(capsys, tmp_path, monkeypatch):
    names = run(README, tmp_path, monkeypatch)
    assert capsys.readouterr().out.count("α*") == 100
    assert names["alphas"].shape == (7,)


@pytest.mark.parametrize(
    "name", [n for n, page in zip(_NAMES, PAGES, strict=True) if page != README and blocks_of(page)]
)
def test_the_python_of_a_page_runs(name, tmp_path, monkeypatch):
    assert run(ROOT / name, tmp_path, monkeypatch)


def test_the_page_of_other_tools_runs_where_they_are_installed(tmp_path, monkeypatch):
    for library in ("curvlinops", "matfree"):
        pytest.importorskip(library)
    assert run(ROOT / "docs/other_tools.md", tmp_path, monkeypatch, fence="py(?:thon)?")


@pytest.mark.parametrize("name", _NAMES)
def test_every_link_leads_somewhere(name):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / name).read_text())
    missing = [link for link in links if not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing


def test_the_first_example_is_under_15_lines():
    assert len(blocks_of(README)[0].splitlines()) < 15


def test_the_readme_has_at_most_150_lines():
    assert len(README.read_text().splitlines()) <= 150
