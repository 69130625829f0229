"""Many seeds, in many processes."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.verification import processes
from tests.verification.fuzzing.examined import Examiner, quiet
from tests.verification.fuzzing.report import Report

_AT_MOST = {"eager": 120, "inductor": 600}  # seconds for a seed, with its shrinking


class Settings(NamedTuple):
    """What all processes are told."""

    backend: str = "eager"
    without: str = ""
    shrink: float = 10.0


def work(seeds: Sequence[str], settings: Settings, lines: Path) -> None:
    """Examine seeds in this process."""
    torch.set_num_threads(1)
    quiet()
    gc.freeze()  # a twentieth of the time
    examiner = Examiner(settings.backend, frozenset(settings.without.split(",")), settings.shrink)
    processes.work(seeds, lines, lambda seed: examiner.examine(int(seed)).line(), _AT_MOST[settings.backend])


def run(
    seeds: Sequence[int],
    settings: Settings,
    *,
    workers: int = 1,
    seconds: float = float("inf"),
    told: Callable[[Report, dict[str, Any], list[dict[str, Any]]], None] = lambda report, line, new: None,
) -> Report:
    """Examine seeds in several processes; ``told`` hears of each seed, with the findings that are new."""
    report = Report()
    command = ["tests.verification.fuzzing", "--backend", settings.backend]
    command += ["--without", settings.without, "--shrink", str(settings.shrink)]

    def heard(line: dict[str, Any]) -> None:
        if "crashed" in line:
            report.crashed.append(int(line["job"]))
        else:
            told(report, line, report.add(line))

    processes.run(command, list(map(str, seeds)), heard, workers=workers, seconds=seconds)
    return report
