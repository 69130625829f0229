"""One seed: its program, tried in its ways, the failures shrunk."""

import logging
import time
import warnings
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

from alpha_func.capture.running import reusing
from tests.verification.fuzzing.generator import program_of
from tests.verification.fuzzing.outcomes import FAILURES, Outcome, Verdict
from tests.verification.fuzzing.program import Program
from tests.verification.fuzzing.references import Kind, Reference, attempt
from tests.verification.fuzzing.report import key_of
from tests.verification.fuzzing.shrinking import shrunk
from tests.verification.fuzzing.trials import Trial
from tests.verification.fuzzing.verdicts import judged
from tests.verification.fuzzing.ways import Way, ways_of

SHRUNK = (*FAILURES, Verdict.FALLBACK, Verdict.INHERITED)


@dataclass
class Finding:
    """A way that failed, on the smallest program of which the same is said."""

    key: str
    verdict: str
    way: str
    detail: str
    code: str
    statements: int


@dataclass
class Examined:
    """What is said of a seed: how the vote ended, (way, verdict, detail) of each way, and what failed."""

    seed: int
    kind: str
    outcomes: list[tuple[str, str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class Examiner:
    """Examines seeds, and shrinks a failure of each kind once."""

    def __init__(self, backend: str = "eager", without: frozenset[str] = frozenset(), shrink: float = 10.0):
        self.backend, self.without, self.shrink = backend, without, shrink
        self.seen: set[str] = set()

    def examine(self, seed: int) -> Examined:
        """A seed. Its time is the processor's, without the shrinking."""
        _reuse_memory_of_small_tensors(reusing, always=seed % 2 == 1)
        begun = time.process_time()
        program = program_of(seed, self.without)
        reference = attempt(lambda: Reference(program))
        if reference is None or reference.kind is Kind.UNUSABLE:
            return Examined(seed, Kind.UNUSABLE.value, seconds=time.process_time() - begun)
        outcomes = self._tried(program, reference, ways_of(seed, program))
        kinks = [way for _, way, outcome in outcomes if outcome.verdict is Verdict.KINK]
        if kinks:  # an error is not to hide behind one
            moved = program.moved()
            elsewhere = attempt(lambda: Reference(moved))
            if elsewhere is not None and elsewhere.kind is not Kind.UNUSABLE:
                outcomes += self._tried(moved, elsewhere, kinks)
        found = Examined(seed, reference.kind.value, seconds=time.process_time() - begun)
        found.outcomes = [(way.name, outcome.verdict.value, outcome.detail) for _, way, outcome in outcomes]
        failed: dict[Verdict, tuple[Program, Way, Outcome]] = {}
        for tried in outcomes:
            if tried[-1].verdict in SHRUNK:
                failed.setdefault(tried[-1].verdict, tried)
        found.findings = [self._finding(*failure) for failure in failed.values()]
        return found

    def _tried(self, program: Program, reference: Reference, ways: list[Way]) -> list[tuple[Program, Way, Outcome]]:
        with program.defaults():
            trial = Trial(program, reference, self.backend)
        return [(program, way, judged(trial, way)) for way in ways]

    def _finding(self, program: Program, way: Way, outcome: Outcome) -> Finding:
        key = key_of(outcome.verdict, way.name, outcome.detail, program)
        if key not in self.seen and self.shrink:
            self.seen.add(key)
            program, outcome = shrunk(program, way, outcome, self.backend, self.shrink)
            key = key_of(outcome.verdict, way.name, outcome.detail, program)
        return Finding(key, outcome.verdict.value, way.name, outcome.detail, program.code, len(program.statements))


def quiet() -> None:
    """Without the warnings and logs of thousands of strange programs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def _reuse_memory_of_small_tensors(module: ModuleType, *, always: bool) -> None:
    """Programs of small tensors are otherwise too small for it."""
    if not hasattr(module, "_LARGE"):
        raise AttributeError("reusing._LARGE is gone: say here how small programs are made to reuse memory")
    module._LARGE = 1 if always else 2**14
