"""The fuzzer finds what is wrong, says it in a few lines, and finds nothing in a few hundred fixed seeds."""

import random

import pytest
import torch

from tests.helpers.wrong_rules import none_at_all, plant
from tests.verification.fuzzing import generator
from tests.verification.fuzzing.campaign import Settings, run
from tests.verification.fuzzing.examined import Examiner
from tests.verification.fuzzing.pool import Pool
from tests.verification.fuzzing.program import Program, Statement
from tests.verification.fuzzing.references import Kind, Reference
from tests.verification.fuzzing.report import Report
from tests.verification.fuzzing.shrinking import outcome_of, shrunk
from tests.verification.fuzzing.templates import FAMILIES
from tests.verification.fuzzing.verdicts import Verdict
from tests.verification.fuzzing.ways import ADJOINT, PLAIN, SWEEP

pytestmark = pytest.mark.filterwarnings("ignore")
CAUGHT = {Verdict.WRONG, Verdict.FALLBACK}  # a wrong rule gives a wrong number, or one that the library gives up


def program(*codes: str, p: str = "torch.tensor([0.3, -0.7])", result: str | None = None) -> Program:
    """A program of one parameter p0, in float64."""
    statements = tuple(Statement(f"v{i}", f"v{i} = {code}") for i, code in enumerate(codes))
    last = f"v{len(codes) - 1}"
    direction = f"torch.ones_like({p}) * .9"
    return Program({"p0": p}, {"p0": direction}, {}, statements, (result or f"{last}.square().sum()",))


@pytest.fixture
def tanh_is_wrong(monkeypatch):
    """The second derivative of tanh is taken for zero, wherever the sweeps ask for it."""
    plant(monkeypatch, second=none_at_all)


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_gives_the_same_program_again(seed):
    assert generator.program_of(seed) == generator.program_of(seed)


def test_seeds_give_programs_of_their_own():
    assert len({generator.program_of(seed).source for seed in range(30)}) == 30


@pytest.mark.parametrize("seed", range(3))
def test_a_program_printed_as_a_script_runs(seed, capsys):
    code = generator.program_of(seed).code
    before = torch.get_default_dtype()
    try:
        exec(code.partition("print(")[0], {})
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_template_makes_a_value_for_some_operands(family):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        idle = [template.body for template in FAMILIES[family] if not _makes_a_value(template)]
    finally:
        torch.set_default_dtype(before)
    assert not idle


def _makes_a_value(template) -> bool:
    for seed in range(40):
        pool = Pool(random.Random(seed), "float64", zeros=False)
        for _ in range(3):
            pool.new(pool.some_shape(), "p")
        statements: list[Statement] = []
        generator._insert(template, pool, statements)
        if statements:
            return True
    return False


def test_the_vote_tells_a_kink():
    assert Reference(program("torch.relu(p0)", p="torch.tensor([0., 1.])", result="v0.sum()")).kind is Kind.KINK


def test_the_vote_tells_where_pytorch_has_no_second_derivative():
    assert Reference(program("torch.cdist(p0[None], p0[None] * 2 + 1)")).kind is Kind.PYTORCH_RAISES


def test_the_vote_is_the_closed_form():
    reference = Reference(program("p0 * p0", result="v0.sum()"))
    assert reference.numbers == pytest.approx((0.58, -0.72, 3.24))


def test_an_error_of_pytorch_is_internal_and_one_of_ours_refused():
    raises = program("torch.tensor(p0.tolist()) * p0")
    assert outcome_of(raises, SWEEP).verdict is Verdict.REFUSED
    assert outcome_of(program("p0.sin()"), PLAIN).verdict is Verdict.EXACT


def test_a_wrong_rule_is_found_within_forty_seeds(tanh_is_wrong):
    others = frozenset(FAMILIES) - {"unary", "activations"}
    examiner = Examiner(without=others, shrink=0)
    assert any(verdict in CAUGHT for seed in range(40) for _, verdict, _ in examiner.examine(seed).outcomes)


@pytest.mark.parametrize("way", [SWEEP, ADJOINT], ids=lambda way: way.name)
def test_the_shrinker_keeps_the_verdict_and_the_guilty_operator(way, tanh_is_wrong):
    large = program("p0.sin()", "v0 * p0", "torch.tanh(v1 + 1)", "v2.exp() - v1", "torch.stack([v3, v0])")
    outcome = outcome_of(large, way)
    small, found = shrunk(large, way, outcome, "eager", seconds=30)
    assert found.verdict is outcome.verdict
    assert outcome.verdict in CAUGHT
    assert [code for _, code in small.statements] == [small.statements[0].code]
    assert "tanh" in small.source


def test_a_report_keeps_the_smallest_program_of_a_kind():
    finding = {"key": "wrong | tanh", "verdict": "wrong", "way": "w", "detail": "d", "code": "large", "statements": 3}
    report = Report()
    for seed, smaller in enumerate(({}, {"code": "small", "statements": 1})):
        found = [{**finding, **smaller}]
        report.add({"seed": seed, "kind": "ok", "seconds": 0.1, "outcomes": [("w", "wrong", "d")], "findings": found})
    assert report.findings["wrong | tanh"]["code"] == "small"
    assert report.findings["wrong | tanh"]["seeds"] == [0, 1]
    assert report.failures() == 2


# The one test that runs whole programs, as a user of the library would write them.
@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 200), marks=pytest.mark.whole)], ids=str)
def test_nothing_is_wrong_and_nothing_raises_of(seeds):
    told = []
    report = run(seeds, Settings(shrink=0), workers=2, told=lambda _, line, new: told.extend(new))
    assert report.failures() == 0, "\n".join(f"{f['detail']}\n{f['code']}" for f in told)
    assert report.programs > 0.75 * len(seeds)
