"""Which way to dᵀHd, on this machine: models × ways, tried, timed, and compared with the dense Hessian.

    python -m benchmarks --quick          the small models, a minute or two; into runs/benchmarks-quick
    python -m benchmarks                  everything, three quarters of an hour; into benchmarks
    python -m benchmarks --report-only    the report again, from the CSV files

A run that was cut off goes on where it ended: give the same command again. --fresh begins anew.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.against_dense import MODEL, TRUTH, compare_all
from benchmarks.models import MODELS
from benchmarks.report import write_report
from benchmarks.results import Results
from benchmarks.settings import Settings
from benchmarks.timings import time_all
from benchmarks.trials import ANSWERS, try_all
from benchmarks.ways import UNIT, WAYS

HERE = Path(__file__).parent
QUICK = {"small": True, "rounds": 5, "seconds": 1.0, "points": 100, "patience": 60.0}


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the report."""
    options = parsed(arguments)
    given = {name: getattr(options, name) for name in ("rounds", "threads", "workers", "device", "dtype", "seconds")}
    chosen = {name: tuple(getattr(options, name)) for name in ("models", "ways", "extra")}
    settings = Settings(
        **{**(QUICK if options.quick else {}), **{k: v for k, v in given.items() if v is not None}, **chosen}
    )
    settings.register()
    check(settings)
    folder = options.output or (Path("runs/benchmarks-quick") if options.quick else HERE)
    results = Results(folder / "report")
    if not options.report_only:
        # Compiled programs are kept between the trial of a way and its timing, and no longer: first calls are cold.
        with tempfile.TemporaryDirectory() as cache:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
            os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
            os.environ["OMP_NUM_THREADS"] = str(settings.threads)
            results.begin(settings, fresh=options.fresh)
            run(settings, results, Path(cache))
    write_report(results, folder / "REPORT.md")
    print(f"wrote {folder / 'REPORT.md'}")


def run(settings: Settings, results: Results, scratch: Path) -> None:
    """The trials, the comparison with the dense Hessian, the times: each without what its file already holds."""
    begin = time.perf_counter()
    pairs = settings.pairs()
    tried = {(row.model, row.way) for row in results.trials()}
    left = [pair for pair in pairs if pair not in tried]
    for rows in shown("trials", len(left), try_all(settings, left)):
        results.add("trials", rows)
    trials = {(row.model, row.way, row.dtype): row.outcome for row in results.trials()}

    compared = {row.way for row in results.alphas()}
    ways = [w for m, w in pairs if m == MODEL and not WAYS[w].gradient and w != TRUTH and w not in compared]
    ways = [w for w in ways if trials[MODEL, w, settings.dtype] in ANSWERS]
    for rows in shown("α* against dense", len(ways), compare_all(settings, ways, scratch / "points.pt")):
        results.add("alphas", rows)

    timed = {(row.model, row.way) for row in results.timings()}
    answered = [pair for pair in pairs if trials[*pair, settings.dtype] in ANSWERS]
    missing = {pair for pair in answered if pair not in timed}
    models = [model for model in MODELS if model in {model for model, _ in missing}]
    ways_of = {m: [w for n, w in answered if n == m and ((m, w) in missing or w == UNIT)] for m in models}
    for rows in shown("times", len(ways_of), time_all(settings, ways_of)):
        results.add("times", [row for row in rows if (row.model, row.way) not in timed])
    results.took(time.perf_counter() - begin)


def shown(name: str, total: int, batches: Iterator) -> Iterator:
    """With a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[latest]}")) as progress:
        task = progress.add_task(name, total=total, latest="")
        for rows in batches:
            yield rows
            latest = " ".join(str(part) for part in rows[0][:2]) if rows else ""
            progress.update(task, advance=1, latest=latest)


def check(settings: Settings) -> None:
    """Refuse names that are not there."""
    for given, known, what in ((settings.models, MODELS, "model"), (settings.ways, WAYS, "way")):
        for name in given:
            if name not in known:
                raise SystemExit(f"{what} {name!r} is unknown: choose from {', '.join(known)}")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small models, few rounds, compilers on the first only")
    parser.add_argument("--models", nargs="+", default=[], metavar="MODEL", help="left out: all")
    parser.add_argument("--ways", "--tools", nargs="+", default=[], metavar="WAY", help=f"left out: all; {UNIT} always")
    parser.add_argument("--rounds", type=int, help="of a model's timing, at most (20)")
    parser.add_argument("--seconds", type=float, help="that a model's rounds may take (15)")
    parser.add_argument("--threads", type=int, help="of the timed processes (2)")
    parser.add_argument("--workers", type=int, help="processes that try ways at once, a thread each (2)")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", choices=["float32", "float64"], help="of times and memory (float32)")
    parser.add_argument("--output", type=Path, help="the folder of the CSV files and the report")
    parser.add_argument("--extra", nargs="+", default=[], metavar="MODULE", help="modules that add models or ways")
    parser.add_argument("--fresh", action="store_true", help="forget what the folder holds")
    parser.add_argument("--report-only", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
