"""The table of verified operators is what a fresh check finds, and nothing wrong goes unrefused."""

import csv
import random

import pytest

from alpha_func.transforms import STRATEGIES
from alpha_func.verified.table import COLUMNS, TABLE, table
from tests.helpers.whole import a_few_of
from tests.helpers.wrong_rules import none_at_all, plant
from tests.verification import verify_sweeps
from tests.verification.operator_cases import OURS, cases, without_seeds
from tests.verification.verify_operators import check

RUN = [name for name, row in table("operator").items() if "crash" not in row.values()]
DRAWN = random.Random(0).sample(sorted(RUN), 24)
SAMPLE = a_few_of(sorted(DRAWN), DRAWN[:12])


@pytest.fixture
def unseeded():
    """The operators draw from the seed of the loss."""
    with without_seeds():
        yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*SAMPLE, "nn.functional.layer_norm", "_weight_norm", "nn.functional.batch_norm"])
def test_a_fresh_check_finds_what_the_table_says_of(name, unseeded):
    row = table("operator")[name]
    function, samples = cases()[name]
    found = check(function, samples(), seed=sum(map(ord, name)))["samples"]
    smooth = [sample for sample in found if sample["smooth"]]
    assert len(smooth) == int(row["samples"])
    for strategy in STRATEGIES:
        for way, column in (("eager", strategy), ("captured", f"captured_{strategy}")):
            if row[column] == "exact":
                assert {s[way][strategy] for s in smooth} <= {"exact", "refused"}
            elif row[column] == "wrong":
                assert "wrong" in {s[way][strategy] for s in smooth}


SWEPT = sorted(name for name, row in table("operator").items() if row["sweep"] == row["adjoint"] == "exact")
TRIED = random.Random(1).sample(SWEPT, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", a_few_of(TRIED, TRIED[:1]))
def test_a_fresh_sweep_is_exact_where_the_table_says_so(name, unseeded):
    row = table("operator")[name]
    found = verify_sweeps.columns(verify_sweeps.check(*cases()[name], seed=sum(map(ord, name))))
    assert found["sweep"] == found["adjoint"] == "exact"
    assert set(found["not_exact_for"].split("; ")) <= set(row["not_exact_for"].split("; ")) | {""}


@pytest.mark.filterwarnings("ignore::alpha_func.errors.CaptureWarning")
def test_a_sweep_that_is_wrong_is_told_by_kind_of_operand(monkeypatch, unseeded):
    plant(monkeypatch, second=none_at_all)
    found = verify_sweeps.check(*cases()["tanh"], seed=0, kinds=["generic", "size_1"])
    assert found["sweep"]["generic"] in ("wrong", "falls back"), found["said"]
    assert verify_sweeps.columns(found)["sweep"] == found["sweep"]["generic"]


def test_97_percent_of_torchs_operators_are_exact_when_captured():
    rows = [row for row in table("operator").values() if not row["name"].startswith(OURS)]
    verified = [row for row in rows if row["captured_reverse_over_reverse"] not in ("rough", "crash")]
    exact = [row for row in verified if row["captured_reverse_over_reverse"] == "exact"]
    assert len(exact) >= 0.97 * len(verified), f"{len(exact)} of {len(verified)}"


def test_common_primitives_are_exact_under_every_strategy():
    for name in (
        "mm",
        "addmm",
        "bmm",
        "convolution",
        "tanh",
        "exp",
        "sum.dim_IntList",
        "var_mean.correction",
        "embedding",
    ):
        row = table("primitive")[f"aten.{name}" if "." in name else f"aten.{name}.default"]
        assert {row[strategy] for strategy in STRATEGIES} == {"exact"}, name


def test_table_is_sorted_and_has_its_columns():
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for kind in ("operator", "derivative", "primitive"):
        names = [row["name"] for row in rows if row["kind"] == kind]
        assert names == sorted(set(names))
