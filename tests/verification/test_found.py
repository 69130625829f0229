"""What the fuzzer has found, shrunk, and is mended: each program by every verb of a captured loss."""

from typing import NamedTuple

import pytest

from tests.verification.fuzzing.outcomes import Verdict
from tests.verification.fuzzing.program import Program, Statement
from tests.verification.fuzzing.references import Kind, Reference
from tests.verification.fuzzing.trials import Trial
from tests.verification.fuzzing.verdicts import judged
from tests.verification.fuzzing.ways import ADJOINT, DESCENT, PLAIN, SECOND_SWEEP, SWEEP


class Found(NamedTuple):
    """A loss of p0 (and p1), in statements; the slope and curvature that the vote gave."""

    params: list[str]
    statements: list[str]
    slope: float
    curvature: float


def tensor(numbers: str, shape: str = "") -> str:
    """Its code."""
    return f"torch.tensor({numbers}, dtype=torch.float64)" + (f".reshape({shape})" if shape else "")


PAIR = [tensor("[0.5, 1.0]")]
FOUND = {
    "view_as_real of a product with i": Found(
        [tensor("[-0.06]")], ["torch.view_as_real((p0 * (1 - 2j)) * 1j)", "v0.square().sum()"], -0.54, 8.1
    ),
    "abs of a conjugate": Found(PAIR, ["(p0 * (1 + 0.5j)).conj()", "v0.abs().square().sum()"], 3.375, 4.05),
    "real part of an inverse transform": Found(
        [tensor("[0.0, 2.0]")], ["torch.fft.ifft(p0 * (1 - 2j)).real", "v0.sum()"], 0.9, 0.0
    ),
    "power of a spectrum": Found([tensor("[1.0, 2.0, 3.0]")], ["torch.fft.rfft(p0).abs().square().sum()"], 32.4, 14.58),
    "square of a sinc at zero": Found([tensor("[0.0]")], ["torch.sinc(p0).square().sum()"], 0.0, -5.329586376),
    "smooth_l1 at a residual of zero": Found(
        [tensor("[1.48]")], ["F.smooth_l1_loss(p0, p0.detach(), reduction='mean')"], 0.0, 0.81
    ),
    "a float less a mask of bytes": Found(
        [tensor("[0.5, -1.0]")], ["p0 - (p0 > 0.3).to(torch.uint8)", "v0.square().sum()"], -2.7, 3.24
    ),
    "a straight-through estimator": Found(
        [tensor("[0.78, 0.53]")], ["p0 + (p0.round() - p0).detach()", "v0.square().sum()"], 3.6, 3.24
    ),
    "two expanded operands": Found([tensor("[[0.3], [-0.7]]")], ["p0.expand(2, 2).square().sum()"], -1.44, 6.48),
    "a product beside more dims": Found(
        [tensor("[0.5, 1.0, 1.5, 2.0]", "(2, 2)")],
        ["torch.ones(2, 2, 2) + p0 @ p0", "torch.tanh(v0).sum()"],
        0.134710645,
        -0.776663407,
    ),
    "a clone filled with zero": Found(
        [tensor("[0.19]")], ["(lambda v: v.zero_())(p0.clone()) + p0", "v0.sum()"], 0.9, 0.0
    ),
    "products of what comes before, one of it zero": Found(
        [tensor("[0.5, 0.0, 2.0]")], ["p0.cumprod(0).square().sum()"], 0.9, 3.645
    ),
    "sums, means and products of places": Found(
        PAIR,
        [
            "[p0.scatter_reduce(0, torch.tensor([1, 1]), p0, how) for how in ('sum', 'mean', 'prod')]",
            "torch.cat(v0).square().sum()",
        ],
        19.5,
        31.59,
    ),
    "hypot at the origin": Found(
        [tensor("[-1.0, 2.0]")], ["F.relu6(p0)", "torch.hypot(v0, v0).sum()"], 1.272792206, 0.0
    ),
    "polar of a negative size": Found(
        [tensor("[-1.0, 2.0]"), tensor("[0.3, 0.4]")],
        ["torch.polar(p0, p1)", "v0.real.square().sum() + v0.imag.sum()"],
        -0.264838487,
        -3.169597169,
    ),
    "logaddexp of complex numbers": Found(
        [tensor("[0.3, 0.4]")],
        ["torch.logaddexp(p0 * 1j, p0 + 0j).abs().square().sum()"],
        1.742072098,
        1.023082222,
    ),
    "what vanishes, normalised": Found(
        [tensor("[0.5, 1.0, 1.5, 2.0]", "(2, 2)")],
        ["F.rms_norm(p0 - p0.amax(0, keepdim=True), (2,), torch.full((2,), -0.18)).sum()"],
        0.0,
        0.0,
    ),
    "a solution that depends on no parameter": Found(
        PAIR, ["torch.linalg.solve(torch.eye(2) * 3, torch.ones(2, 1))", "(v0.sum() * p0).square().sum()"], 1.2, 1.44
    ),
    "a number to a power": Found([tensor("[0.3, -0.7]")], ["(2.5 ** p0).sum()"], 1.519797905, 1.253319061),
}
WAYS = (SWEEP, ADJOINT, DESCENT, SECOND_SWEEP, PLAIN)


def program_of(found: Found) -> Program:
    """Along d = 0.9."""
    params = {f"p{i}": code for i, code in enumerate(found.params)}
    direction = {name: f"torch.full_like({code}, 0.9)" for name, code in params.items()}
    statements = tuple(Statement(f"v{i}", f"v{i} = {code}") for i, code in enumerate(found.statements))
    return Program(params, direction, {}, statements, (statements[-1].name,))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_exact(name: str):
    program = program_of(FOUND[name])
    reference = Reference(program)
    numbers = [float(reference.truth.numbers[of].is_) for of in ("slope", "curvature")]
    assert numbers == pytest.approx(FOUND[name][2:], abs=1e-6)
    with program.defaults():
        trial = Trial(program, reference)
    outcomes = {way.name: judged(trial, way) for way in WAYS}
    if reference.kind is not Kind.OK:  # PyTorch has no number there: the captured program's is a gift
        outcomes = {SWEEP.name: outcomes[SWEEP.name], ADJOINT.name: outcomes[ADJOINT.name]}
    assert {verdict for verdict, _ in outcomes.values()} == {Verdict.EXACT}, outcomes


@pytest.mark.filterwarnings("ignore")
def test_at_a_tie_of_prelu_the_sweep_answers():
    program = program_of(
        Found(
            [tensor("[0.0, 1.0, -1.0]"), tensor("[0.25]")],
            ["F.prelu(p0, p1)", "v0.square().sum() + v0.sum()"],
            2.5875,
            0,
        )
    )
    with program.defaults():
        trial = Trial(program, Reference(program))
    assert [judged(trial, way).verdict for way in (SWEEP, ADJOINT)] == [Verdict.KINK, Verdict.KINK]
