"""Many seeds in many processes: a crash or a program that does not end is a finding, and the others go on."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.verification.fuzzing.examined import Examiner, quiet
from tests.verification.fuzzing.report import Report

_AT_MOST = {"eager": 120, "inductor": 600}  # seconds for a seed, with its shrinking
_SHARE = 400  # seeds of a process: what PyTorch caches does not grow without bound


class Settings(NamedTuple):
    """What all processes are told."""

    backend: str = "eager"
    without: str = ""
    shrink: float = 10.0


class _Running(NamedTuple):
    seeds: range
    output: Path
    process: "subprocess.Popen[bytes]"


def work(seeds: range, settings: Settings, output: Path) -> None:
    """Examine seeds in this process, a line of JSON before and after each."""
    torch.set_num_threads(1)
    quiet()
    examiner = Examiner(settings.backend, frozenset(settings.without.split(",")), settings.shrink)
    with output.open("a") as lines:
        for seed in seeds:
            print(json.dumps({"begins": seed}), file=lines, flush=True)
            signal.alarm(_AT_MOST[settings.backend])  # its default action ends the process: a result like a crash
            found = examiner.examine(seed).line()
            signal.alarm(0)
            print(json.dumps(found), file=lines, flush=True)


def run(
    seeds: range,
    settings: Settings,
    *,
    workers: int = 1,
    seconds: float = float("inf"),
    told: Callable[[Report, dict[str, Any], list[dict[str, Any]]], None] = lambda report, line, new: None,
) -> Report:
    """Examine seeds in several processes; ``told`` hears of each seed, with the findings that are new."""
    report, end = Report(), time.monotonic() + seconds
    shares = [seeds[i : i + _SHARE] for i in range(0, len(seeds), _SHARE)]
    shares = [part for share in shares for part in _dealt(share, workers)] if len(shares) < workers else shares
    with tempfile.TemporaryDirectory() as folder:
        running: list[_Running] = []
        read: dict[Path, int] = {}
        try:
            while (shares or running) and time.monotonic() < end:
                while shares and len(running) < workers:
                    running.append(_start(shares.pop(0), settings, Path(folder)))
                time.sleep(0.2)
                for share in list(running):
                    ended = share.process.poll() is not None
                    begun = _read(share.output, read, report, told)
                    if not ended:
                        continue
                    running.remove(share)
                    if begun is not None:
                        report.crashed.append(begun)
                        rest = share.seeds[share.seeds.index(begun) + 1 :]
                        shares[:0] = [rest] if rest else []
                    elif share.process.returncode:
                        raise RuntimeError(f"a process ended with {share.process.returncode} before its first seed")
        finally:
            for share in running:
                share.process.terminate()
    return report


def _dealt(share: range, workers: int) -> list[range]:
    return [part for part in (share[i::workers] for i in range(workers)) if part]


def _start(seeds: range, settings: Settings, folder: Path) -> _Running:
    output = folder / f"{seeds.start}-{seeds.step}-{time.monotonic_ns()}.jsonl"
    output.touch()
    told = ["--seeds", f"{seeds.start}:{seeds.stop}:{seeds.step}", "--backend", settings.backend]
    told += ["--without", settings.without, "--shrink", str(settings.shrink), "--work", str(output)]
    return _Running(seeds, output, subprocess.Popen([sys.executable, "-m", "tests.verification.fuzzing", *told]))


def _read(output: Path, read: dict[Path, int], report: Report, told: Callable[..., None]) -> int | None:
    """Add what has been written since; the seed that was begun and not ended."""
    begun = None
    with output.open() as lines:
        lines.seek(read.get(output, 0))
        while (text := lines.readline()).endswith("\n"):
            line = json.loads(text)
            if "begins" in line:
                begun = line["begins"]
                continue
            begun = None
            new = report.add(line)
            told(report, line, new)
            read[output] = lines.tell()
    return begun
