"""Many jobs in many processes: a crash, or a job that does not end, is a result, and the others go on.

A child appends a line of JSON before a job and one after it; a job that was begun in a process that ended is the one
that ended it. Lines may be kept in a file: what is done in it is not done again.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]
_A_PROCESS = 400  # jobs: what PyTorch caches does not grow without bound


class _Share(NamedTuple):
    jobs: list[str]
    output: Path
    process: "subprocess.Popen[bytes]"


def work(jobs: Sequence[str], output: Path, examine: Callable[[str], Line], seconds: int) -> None:
    """Do jobs in this process; one that takes longer ends it."""
    with output.open("a") as lines:
        for job in jobs:
            print(json.dumps({"begins": job}), file=lines, flush=True)
            signal.alarm(seconds)  # its default action ends the process: a result like a crash
            begun = time.time()
            found = examine(job)
            signal.alarm(0)
            print(json.dumps({"job": job, "took": time.time() - begun, **found}), file=lines, flush=True)


def run(
    command: Sequence[str],
    jobs: Sequence[str],
    heard: Callable[[Line], None],
    *,
    workers: int,
    seconds: float = float("inf"),
    kept: Path | None = None,
) -> None:
    """Do jobs in children, started as ``python -m *command --jobs FILE --lines FILE``.

    Args:
        command: of a child, which reads the jobs, one a line, and calls ``work``.
        jobs: their names.
        heard: is given the line of each, as they end; one that ended its process has ``crashed``, the exit code.
        workers, seconds: how many processes, and when to stop.
        kept: lines of an earlier run, which are heard first and not done again; what is done is added.
    """
    end = time.monotonic() + seconds
    left = _without_those_in(kept, jobs, heard)
    size = max(1, min(_A_PROCESS, -(-len(left) // workers)))
    shares = [left[i :: -(-len(left) // size)] for i in range(-(-len(left) // size))]  # dealt: neighbours are alike
    running: list[_Share] = []
    at: dict[Path, int] = {}

    def tell(line: Line) -> None:
        if kept:
            with kept.open("a") as lines:
                print(json.dumps(line), file=lines)
        heard(line)

    with tempfile.TemporaryDirectory() as folder:
        try:
            while (shares or running) and time.monotonic() < end:
                while shares and len(running) < workers:
                    running.append(_started(command, shares.pop(0), Path(folder)))
                time.sleep(0.2)
                for share in list(running):
                    ended = share.process.poll()
                    begun = _read(share.output, at, tell)
                    if ended is None:
                        continue
                    running.remove(share)
                    if begun is not None:
                        tell({"job": begun, "crashed": ended})
                        rest = share.jobs[share.jobs.index(begun) + 1 :]
                        shares += [rest] if rest else []
                    elif ended:
                        raise RuntimeError(f"a child ended with {ended}, outside of any job")
        finally:
            for share in running:
                share.process.terminate()
                share.process.wait()


def _without_those_in(kept: Path | None, jobs: Sequence[str], heard: Callable[[Line], None]) -> list[str]:
    done = set()
    if kept and kept.exists():
        for text in kept.read_text().splitlines():
            line = json.loads(text)
            if line["job"] in jobs:
                done.add(line["job"])
                heard(line)
    return [job for job in jobs if job not in done]


def _started(command: Sequence[str], jobs: list[str], folder: Path) -> _Share:
    name = str(time.monotonic_ns())
    listed, output = folder / f"{name}.jobs", folder / f"{name}.jsonl"
    listed.write_text("\n".join(jobs))
    output.touch()
    told = [sys.executable, "-m", *command, "--jobs", str(listed), "--lines", str(output)]
    return _Share(jobs, output, subprocess.Popen(told))


def _read(output: Path, at: dict[Path, int], tell: Callable[[Line], None]) -> str | None:
    """Tell what has been written since; the job that was begun and not ended."""
    begun = None
    with output.open() as lines:
        lines.seek(at.get(output, 0))
        while (text := lines.readline()).endswith("\n"):
            line = json.loads(text)
            if "begins" in line:
                begun = line["begins"]
                continue
            begun = None
            tell(line)
            at[output] = lines.tell()
    return begun
