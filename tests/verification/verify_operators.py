"""Check every operator of PyTorch's own database to second order, and write alpha_func/verified/operators.csv.

    python -m tests.verification.verify_operators [--part sweeps] [--only NAME ...] [--workers 2] [--kept FOLDER]

For each operator f that autograd supports in float64 and its samples x, all differentiable inputs are moved at once,
along h(α) = L(θ + αd):

    L(θ) = Σ w·f(x) + ½ Σ u·f(x)²    x = θ + ½ c·(θ − θ₀)²    w, u, c, d random and fixed

so that both what comes into f and what is made of it have second derivatives of their own. The truth is extrapolated
central differences of h; a sample where two families of steps disagree has a kink nearby and is left out. Two parts:

    strategies    a few samples, one by one, eager and captured, under each strategy of torch.func (this module)
    sweeps        every sample at once, and every kind of operand, by the sweeps of captured programs (verify_sweeps)

Each operator runs in a child process: a crash is a result. With ``--kept``, a run that was stopped goes on; the sweeps
are written to the table one by one, and with ``--missing`` go on where it has none.
"""

import argparse
import csv
import logging
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.testing._internal.opinfo.core import SampleInput

from alpha_func import capture, tree
from alpha_func.capture.builder.active import active_nodes, operator_name
from alpha_func.errors import CaptureError
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.transforms import STRATEGIES
from alpha_func.verified.differences import Differences, differences
from alpha_func.verified.formulas import derivative_nodes
from alpha_func.verified.table import COLUMNS, SWEEP_COLUMNS, TABLE
from tests.verification import processes, rules, verify_sweeps
from tests.verification.operator_cases import OURS, cases, samples_of, without_seeds

SECONDS = {"strategies": 60, "sweeps": 900}  # for one operator
TOLERANCE = 1e-6
ORDER = {
    "refused": -1,
    "rough": 0,
    "exact": 0,
    "raises": 1,
    "nan": 2,
    "wrong": 3,
    "crash": 4,
}  # the worst of several samples counts


def truth_of(loss: Any, params: Any, direction: Any, args: Any) -> Differences | None:
    """By extrapolated differences; None where they do not converge."""

    def h(alpha: float) -> float:
        return float(loss(tree.axpy(alpha, direction, params), *args))

    found = differences(h, 1 / float(tree.norm(direction)), (0.05, 0.004, 0.0004))
    return found if found.smooth else None


def verdict(loss: Any, params: Any, direction: Any, args: Any, strategy: Any, truth: Differences) -> str:
    """Whether a strategy gives the slope and curvature of the truth."""
    try:
        with twice_differentiable():
            got = strategy(lambda p: loss(p, *args), params, direction)
    except Exception:
        return "raises"
    unit = 1 / float(tree.norm(direction))
    errors = abs(float(got.slope) - truth.slope) / unit, abs(float(got.curvature) - truth.curvature)
    if any(error != error for error in errors):
        return "nan"
    return "exact" if max(errors) <= TOLERANCE * truth.scale else "wrong"


def check(function: Any, samples: Iterator[SampleInput], seed: int) -> dict[str, Any]:
    """The verdicts on one operator, sample by sample, with the operators that each ran."""
    found: list[dict[str, Any]] = []
    for loss, params, direction, args in samples_of(function, samples, seed):
        entry: dict[str, Any] = {"nodes": [], "primitives": [], "eager": {}, "captured": {}, "reason": ""}
        try:
            with twice_differentiable():
                truth = truth_of(loss, params, direction, args)
                entry["nodes"] = sorted(derivative_nodes(loss, params, args, {}))
        except Exception as error:
            entry["reason"], truth = f"{type(error).__name__}: {error}"[:200], None
        entry["smooth"] = truth is not None
        if truth is None:
            found.append(entry)
            continue
        captured: Any = capture(loss, unverified=True)
        refused = "raises"
        try:
            program = captured.program(params, *args)
            entry["primitives"] = sorted({operator_name(n) for n in active_nodes(program.graph.graph, program.params)})
            same = abs(float(captured(params, *args)) - float(loss(params, *args)))
            entry["value"] = same <= 1e-9 * max(1.0, abs(float(loss(params, *args))))
        except Exception as error:
            captured, refused = None, "refused" if isinstance(error, CaptureError) else "raises"
            entry["reason"] = f"{type(error).__name__}: {error}"[:300]
        for name, strategy in STRATEGIES.items():
            entry["eager"][name] = verdict(loss, params, direction, args, strategy, truth)
            if captured is None:
                entry["captured"][name] = refused
            elif not entry["value"]:
                entry["captured"][name] = "wrong"
            else:
                entry["captured"][name] = verdict(captured, params, direction, args, strategy, truth)
        found.append(entry)
    return {"samples": found}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "strategies": lambda function, samples, seed: check(function, samples(), seed),
    "sweeps": verify_sweeps.check,
}


def child(names: list[str], part: str, lines: Path) -> None:
    """Check the named operators in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    known = cases()

    def examine(name: str) -> dict[str, Any]:
        try:
            with without_seeds():
                return PARTS[part](*known[name], seed=sum(map(ord, name)))
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"[:200]}

    processes.work(names, lines, examine, SECONDS[part])


def run(
    names: list[str], part: str, workers: int, heard: Callable[[str, dict[str, Any]], None], kept: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Check operators in child processes, a new one after each crash; each is heard as it ends."""
    results: dict[str, dict[str, Any]] = {}

    def told(line: dict[str, Any]) -> None:
        if "crashed" in line:
            line["failed"] = f"the process ended with {line['crashed']}"
        results[line["job"]] = {"samples": [], **line}
        print(f"{len(results)} of {len(names)}: {line['job']}", file=sys.stderr)
        heard(line["job"], results[line["job"]])

    command = ["tests.verification.verify_operators", "--part", part]
    processes.run(command, names, told, workers=workers, kept=kept)
    return results


def worst(verdicts: list[str]) -> str:
    """The worst of several; "" for none."""
    return max(verdicts, key=lambda v: ORDER[v], default="")


def summary(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table: operators as called, derivative formulas of autograd, primitives of programs."""
    rows = []
    for name, result in sorted(results.items()):
        smooth = [s for s in result["samples"] if s["smooth"]]
        crashed = "failed" in result
        row: dict[str, Any] = {"kind": "operator", "name": name, "samples": len(smooth)}
        for strategy in STRATEGIES:
            row[strategy] = "crash" if crashed else worst([s["eager"][strategy] for s in smooth]) or "rough"
            captured = worst([s["captured"][strategy] for s in smooth]) or "rough"
            row[f"captured_{strategy}"] = "crash" if crashed else captured
        rows.append(row)
    samples = [s for result in results.values() for s in result["samples"] if s["smooth"]]
    rows += _attributed(samples, "derivative", "nodes", "eager")
    rows += _attributed(samples, "primitive", "primitives", "captured")
    return rows


def _attributed(samples: list[dict[str, Any]], kind: str, parts: str, way: str) -> list[dict[str, Any]]:
    """Verdicts on the parts of samples. A part of an exact sample is exact; a sample that is not exact blames those of
    its parts that are in no exact one. A wrong sample all of whose parts are in exact ones blames the part that is in
    the fewest; one that raises speaks for itself and blames none."""
    rows: dict[str, dict[str, Any]] = defaultdict(dict)
    for strategy in STRATEGIES:
        cleared = Counter(part for s in samples if s[way][strategy] == "exact" for part in s[parts])
        verdicts: dict[str, list[str]] = defaultdict(list)
        for sample in samples:
            outcome = sample[way][strategy]
            blamed = set(sample[parts])
            if outcome != "exact":
                guilty = blamed - cleared.keys()
                if not guilty and outcome not in ("raises", "refused"):
                    rarest = min(cleared[part] for part in blamed)
                    guilty = {part for part in blamed if cleared[part] == rarest}
                blamed = guilty
            for part in blamed:
                verdicts[part].append(outcome)
        for part, seen in verdicts.items():
            rows[part][strategy] = worst(seen)
    count = {part: sum(part in s[parts] for s in samples) for part in rows}
    return [{"kind": kind, "name": part, "samples": count[part], **rows[part]} for part in sorted(rows)]


def unguarded(results: dict[str, dict[str, Any]], rows: list[dict[str, Any]]) -> list[str]:
    """Wrong results that no row of the table would have a transform refuse: there must be none."""
    parts = {(row["kind"], row["name"]): row for row in rows}
    found = []
    for name, result in results.items():
        for sample in (s for s in result["samples"] if s["smooth"]):
            for strategy in STRATEGIES:
                for way, kind, names in (("eager", "derivative", "nodes"), ("captured", "primitive", "primitives")):
                    blamed = [parts[kind, part].get(strategy) for part in sample[names] if (kind, part) in parts]
                    if sample[way][strategy] == "wrong" and "wrong" not in blamed:
                        found.append(f"{name}: {way} {strategy}")
    return sorted(set(found))


def report(results: dict[str, dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """The numbers of the project's first promise, over op_db."""
    listed = {name for name in cases() if name in results and not name.startswith(OURS)}
    operators = [row for row in rows if row["kind"] == "operator" and row["name"] in listed]
    lines = []
    for way, column in (("eager", ""), ("captured", "captured_")):
        for strategy in STRATEGIES:
            counts = Counter(row[column + strategy] for row in operators)
            lines.append(f"{way:9}{strategy:22}" + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))
    lines.append(f"wrong and not refused: {', '.join(unguarded(results, rows)) or 'none'}")
    return "\n".join(lines)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="left out: both")
    parser.add_argument("--only", nargs="*", help="check these operators anew, and keep the rest")
    parser.add_argument("--missing", action="store_true", help="check the sweeps only where the table lacks them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=TABLE)
    parser.add_argument("--kept", type=Path, help="a folder for what is done, and is not done again at the next call")
    parser.add_argument("--jobs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.jobs:
        child(options.jobs.read_text().splitlines(), options.part[0], options.lines)
        return
    if options.kept:
        options.kept.mkdir(parents=True, exist_ok=True)
    parts, names = options.part or list(PARTS), options.only or list(cases())
    rows = _read(options.output)
    if "strategies" in parts:
        results = run(names, "strategies", options.workers, lambda *_: None, _kept(options, "strategies"))
        fresh = summary(results)
        print(report(results, fresh))
        rows = _merged(rows, fresh, whole=not options.only)
        _write(options.output, rows)
    if "sweeps" in parts:
        of_operators = {row["name"]: row for row in rows if row["kind"] == "operator"}
        if options.missing:
            names = [name for name in names if not of_operators[name]["sweep"]]

        def heard(name: str, found: dict[str, Any]) -> None:  # what is known is written: the run may be stopped
            of_operators[name].update(verify_sweeps.columns(found))
            _write(options.output, rows)
            if options.output == TABLE:
                rules.record(found.get("rules", ()))

        run(names, "sweeps", options.workers, heard, _kept(options, "sweeps"))
        for of in ("op_db", "ours"):
            counted = [row for name, row in of_operators.items() if name.startswith(OURS) == (of == "ours")]
            for column in SWEEP_COLUMNS[:2]:
                print(f"{of:6} {column:9}", dict(Counter(row[column] for row in counted).most_common()))


def _kept(options: argparse.Namespace, part: str) -> Path | None:
    return options.kept and options.kept / f"{part}.jsonl"


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _merged(rows: list[dict[str, Any]], fresh: list[dict[str, Any]], *, whole: bool) -> list[dict[str, Any]]:
    """The rows made anew, operators with their sweeps' columns as they were. After a check of a few operators the
    others stay, and so do the parts that others have: their rows rest on more samples."""
    before = {(row["kind"], row["name"]): row for row in rows}
    after = {} if whole else dict(before)
    for row in fresh:
        key = row["kind"], row["name"]
        if row["kind"] == "operator":
            swept = {column: before.get(key, {}).get(column, "") for column in SWEEP_COLUMNS}
            after[key] = {**row, **swept}
        elif whole or key not in before:
            after[key] = row
    order = ("operator", "derivative", "primitive")
    return sorted(after.values(), key=lambda row: (order.index(row["kind"]), row["name"]))


def _read(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return [{column: row.get(column) or "" for column in COLUMNS} for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
