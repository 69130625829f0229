"""What many seeds gave: counts, and one finding of each kind."""

import re
from collections import Counter
from typing import Any

from tests.verification.fuzzing.outcomes import FAILURES, Verdict
from tests.verification.fuzzing.program import Program
from tests.verification.fuzzing.verdicts import pattern

_BY_THEIR_WORDS = (Verdict.INTERNAL, Verdict.FALLBACK, Verdict.REFUSED)


def key_of(verdict: Verdict, way: str, detail: str, program: Program) -> str:
    """The kind of a failure: an error by its words, a wrong number by the operators of its program."""
    if verdict in _BY_THEIR_WORDS:
        return f"{verdict} | {pattern(detail)}"
    return f"{verdict} | {way.split('(')[0]}{' plain' if 'plain' in way else ''} | {operators(program)}"


def operators(program: Program) -> str:
    """The names of what a program calls."""
    codes = [code.split("=", 1)[-1] for _, code in program.statements]
    text = re.sub(r"torch\.tensor\(.*?\)|reshape\(.*?\)", "", " ".join([*codes, *program.results]))
    called = re.findall(r"\.([a-z]\w*)\(|( (?:[-+*/@>&|]|\*\*) )", text)
    return " ".join(sorted({name or sign.strip() for name, sign in called}))[:120]


class Report:
    """Adds up the lines of examined seeds."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()  # "way | verdict"
        self.refusals: Counter[str] = Counter()
        self.findings: dict[str, dict[str, Any]] = {}
        self.crashed: list[int] = []
        self.seconds = 0.0

    @property
    def programs(self) -> int:
        """Those with a reference."""
        return sum(n for kind, n in self.kinds.items() if kind != "unusable")

    def add(self, line: dict[str, Any]) -> list[dict[str, Any]]:
        """Count a seed; the findings of it that are of a kind not seen before."""
        self.kinds[line["kind"]] += 1
        self.seconds += line["seconds"]
        for way, verdict, detail in line["outcomes"]:
            self.counts[f"{way} | {verdict}"] += 1
            if verdict == Verdict.REFUSED:
                self.refusals[pattern(detail)] += 1
        new = []
        for finding in line["findings"]:
            known = self.findings.get(finding["key"])
            if known is None:
                self.findings[finding["key"]] = {**finding, "seeds": [line["seed"]]}
                new.append(finding)
                continue
            known["seeds"].append(line["seed"])
            if finding["statements"] < known["statements"]:
                known.update(finding)
        return new

    def verdicts(self) -> Counter[str]:
        """How many checks got each verdict."""
        found: Counter[str] = Counter()
        for name, count in self.counts.items():
            found[name.rpartition(" | ")[2]] += count
        return found

    def failures(self) -> int:
        """Wrong numbers, internal errors and crashes."""
        return sum(self.verdicts()[verdict] for verdict in FAILURES) + len(self.crashed)

    def summary(self) -> dict[str, Any]:
        """As JSON; the largest kinds of findings first."""
        return {
            "programs": self.programs,
            "references": dict(self.kinds),
            "seconds_a_program": round(self.seconds / max(1, self.programs), 3),
            "verdicts": dict(self.verdicts()),
            "ways": dict(sorted(self.counts.items())),
            "refusals": dict(self.refusals.most_common()),
            "crashed": self.crashed,
            "findings": sorted(self.findings.values(), key=lambda f: (f["verdict"], -len(f["seeds"]))),
        }

    def __str__(self) -> str:
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in self.verdicts().most_common())
        return (
            f"{self.programs} programs ({dict(self.kinds)}), {self.seconds / max(1, self.programs):.2f} s each: "
            f"{verdicts}, {len(self.crashed)} crashed; {len(self.findings)} kinds of findings"
        )
