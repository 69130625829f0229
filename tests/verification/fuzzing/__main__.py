"""The command: ``python -m tests.verification.fuzzing --seeds 0:500``."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of programs this small, a second thread costs more than it gives
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from tests.verification import fuzzing
from tests.verification.fuzzing.campaign import Settings, run, work
from tests.verification.fuzzing.report import Report


def main() -> int:
    """Examine the seeds; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=fuzzing.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:200", help="A:B, or A:B:STEP")
    parser.add_argument("--backend", default="eager", choices=["eager", "inductor"])
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after these")
    parser.add_argument("--json", type=Path, help="report to write, again and again while it runs")
    parser.add_argument("--shrink", type=float, default=10.0, help="seconds for each failure")
    parser.add_argument("--without", default="", help="families of templates to leave out, and zeros; with commas")
    parser.add_argument("--jobs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = Settings(options.backend, options.without, options.shrink)
    if options.jobs:
        work(options.jobs.read_text().split(), settings, options.lines)
        return 0
    seeds = range(*map(int, options.seeds.split(":")))

    def told(report: Report, line: dict[str, Any], new: list[dict[str, Any]]) -> None:
        for finding in new:
            said = f"{finding['verdict']}, seed {line['seed']}, {finding['way']}: {finding['detail']}"
            print(f"\n### {said}\n{finding['code']}", flush=True)
        if sum(report.kinds.values()) % 100 == 0:
            print(f"[seed {line['seed']}] {report}", flush=True)
            _write(report, options.json)

    report = run(seeds, settings, workers=options.workers, seconds=options.minutes * 60, told=told)
    print(report)
    for name, count in sorted(report.counts.items()):
        print(f"  {name:60} {count}")
    _write(report, options.json)
    return int(report.failures() > 0)


def _write(report: Report, path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(report.summary(), indent=1))


if __name__ == "__main__":
    raise SystemExit(main())
