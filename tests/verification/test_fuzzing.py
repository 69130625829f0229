"""The fuzzer finds what is wrong, says it in a few lines, and finds nothing in a few hundred fixed seeds."""

import random

import pytest
import torch

from tests.helpers.wrong_rules import none_at_all, plant
from tests.verification.fuzzing import examined, generator
from tests.verification.fuzzing.campaign import Settings, run
from tests.verification.fuzzing.derivatives import DoubleBackward, Line
from tests.verification.fuzzing.examined import Examiner
from tests.verification.fuzzing.outcomes import Verdict, compared
from tests.verification.fuzzing.pool import Pool
from tests.verification.fuzzing.program import Program, Statement
from tests.verification.fuzzing.references import Kind, Reference
from tests.verification.fuzzing.report import Report
from tests.verification.fuzzing.shrinking import outcome_of, shrunk
from tests.verification.fuzzing.templates import FAMILIES
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


def test_the_vote_tells_a_kink_beside_much_that_is_smooth():
    bent = program(
        "F.prelu(p0, torch.tensor([.9]))", p="torch.tensor([0., 1.])", result="v0.square().sum() + 1e3 * p0.sum()"
    )
    assert Reference(bent).kind is Kind.KINK


def test_the_vote_tells_a_kink_that_no_one_line_sees():
    assert Reference(program("p0.abs().prod()", p="torch.tensor([0., 0.])", result="v0")).kind is Kind.KINK


def test_the_vote_tells_where_pytorch_has_no_second_derivative():
    assert Reference(program("torch.cdist(p0[None], p0[None] * 2 + 1)")).kind is Kind.PYTORCH_RAISES


def test_the_vote_is_the_closed_form():
    reference = Reference(program("p0 * p0", result="v0.sum()"))
    numbers = {name: float(reference.truth.numbers[name].is_) for name in ("value", "slope", "curvature")}
    assert numbers == pytest.approx({"value": 0.58, "slope": -0.72, "curvature": 3.24})


def test_the_vote_tells_a_small_part_that_pytorch_derives_wrongly():
    reference = Reference(program("torch.abs(p0)", p="torch.tensor([0., .1])", result="v0.square().sum() * .01 + 300"))
    assert reference.kind is Kind.PYTORCH_WRONG  # its double backward of |x|² at 0 is 0
    assert float(reference.truth.numbers["curvature"].is_) == pytest.approx(2 * 2 * 0.81 * 0.01)


def test_the_vote_tells_a_wrong_product_where_the_curvature_is_right():
    normalised = "F.batch_norm(torch.eye(2).double() + 1, None, None, None, p0, training=True)"
    reference = Reference(program(normalised, result="v0.square().sum()"))
    assert reference.truth.numbers["Hd"].is_.tolist() == pytest.approx([3.6, 3.6])


@pytest.mark.parametrize(
    "code", ["p0 + (p0.round() - p0).detach()", "F.embedding(torch.tensor([0, 1]), p0[:, None], 1)"]
)
def test_what_derivatives_take_for_constant_is_voted_on(code):
    assert Reference(program(code)).kind is Kind.OK


def test_there_is_no_truth_where_a_difference_steps_over_an_epsilon():
    reference = Reference(program("F.normalize(p0, dim=0)", p="torch.tensor([0., 0.])"))
    assert reference.kind in (Kind.KINK, Kind.UNUSABLE)


@pytest.mark.parametrize("name", ["slope", "curvature", "Hd"])
def test_the_vote_finds_a_wrong_derivative_of_pytorch(name, monkeypatch):
    right = Reference(program("torch.tanh(p0)")).truth.numbers[name].is_

    def wrong(line, own=Line.double_backward):
        numbers = own(line).numbers
        return DoubleBackward(numbers | {name: numbers[name] * (1 + 1e-4)})

    monkeypatch.setattr(Line, "double_backward", wrong)
    reference = Reference(program("torch.tanh(p0)"))
    assert reference.kind is Kind.PYTORCH_WRONG
    if name in reference.truth.numbers:
        assert torch.allclose(reference.truth.numbers[name].is_, right, rtol=1e-6)


@pytest.mark.parametrize("code", ["torch.tanh(p0)", "torch.cdist(p0[None], p0[None] * 2 + 1)", "torch.abs(p0) ** 2"])
def test_a_number_a_little_off_is_wrong_whatever_the_vote(code):
    truth = Reference(program(code, p="torch.tensor([0., .4])")).truth
    for name, number in truth.numbers.items():
        assert not compared(truth, name, number.is_)
        assert [verdict for verdict, _ in compared(truth, name, number.is_ * (1 + 1e-4))] == [Verdict.WRONG]


def test_a_wrong_rule_does_not_hide_behind_a_kink(tanh_is_wrong, monkeypatch):
    kinked = program("torch.relu(p0) + torch.tanh(p0)", p="torch.tensor([0., .4])")
    monkeypatch.setattr(examined, "program_of", lambda seed, without: kinked)
    assert CAUGHT & {verdict for _, verdict, _ in Examiner(shrink=0).examine(0).outcomes}


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
