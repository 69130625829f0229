"""Check every operator of PyTorch's own database to second order, and write alpha_func/capture/operators.csv.

    python -m tests.verification.verify_operators [--only NAME ...] [--workers 2] [--output FILE]

For each operator f that autograd supports in float64 and a few of its samples x, all differentiable inputs are moved at
once, along h(α) = L(θ + αd):

    L(θ) = Σ w·f(x) + ½ Σ u·f(x)²    x = θ + ½ c·(θ − θ₀)²    w, u, c, d random and fixed

so that both what comes into f and what is made of it have second derivatives of their own. The truth is extrapolated
central differences of h; a sample where two families of steps disagree has a kink nearby and is left out.

Each operator runs in a child process, eager and captured, under each strategy: a crash is a result.
"""

import argparse
import csv
import json
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.testing._internal.opinfo.core import SampleInput

from alpha_func import STRATEGIES, CaptureError, capture, tree
from alpha_func.capture.builder.active import active_nodes, operator_name
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.verified.differences import Differences, differences
from alpha_func.verified.formulas import derivative_nodes
from alpha_func.verified.table import COLUMNS, TABLE
from tests.verification.operator_cases import OURS, cases, samples_of

SECONDS = 60  # for one operator
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


def child(names: list[str], output: Path) -> None:
    """Check the named operators, a line of JSON before and after each."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known = cases()
    # op_db's random operators seed the RNG themselves, which functional_loss does already, and capture refuses
    torch.manual_seed = lambda seed: torch.default_generator  # type: ignore[assignment,misc]
    with output.open("a") as lines:
        for name in names:
            print(json.dumps({"name": name, "begins": True}), file=lines, flush=True)
            signal.alarm(SECONDS)  # its default action ends the process: a result like a crash
            torch.default_generator.manual_seed(0)
            started = time.time()
            try:
                result = check(known[name][0], known[name][1](), seed=sum(map(ord, name)))
            except Exception as error:
                result = {"samples": [], "failed": f"{type(error).__name__}: {error}"[:200]}
            signal.alarm(0)
            print(json.dumps({"name": name, "seconds": time.time() - started, **result}), file=lines, flush=True)


def run(names: list[str], workers: int) -> dict[str, dict[str, Any]]:
    """Check operators in child processes, a new one after each crash."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        waiting = [(names[i::workers], Path(folder) / f"{i}.jsonl") for i in range(workers)]
        running = [(*share, _start(*share)) for share in waiting if share[0]]
        while running:
            time.sleep(0.2)
            for share in list(running):
                todo, output, process = share
                if process.poll() is None:
                    continue
                running.remove(share)
                lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
                done = {line["name"]: line for line in lines if "begins" not in line}
                results.update(done)
                begun = [line["name"] for line in lines if "begins" in line and line["name"] not in results]
                for name in begun:
                    results[name] = {"samples": [], "failed": f"process ended with {process.returncode}"}
                left = [name for name in todo if name not in results]
                if left and (begun or done):
                    running.append((left, output, _start(left, output)))
    return results


def _start(names: list[str], output: Path) -> "subprocess.Popen[bytes]":
    listed = output.with_suffix(f".{time.time_ns()}.names")
    listed.write_text("\n".join(names))
    command = [
        sys.executable,
        "-m",
        "tests.verification.verify_operators",
        "--child",
        str(listed),
        "--output",
        str(output),
    ]
    return subprocess.Popen(command)


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
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=TABLE)
    parser.add_argument("--raw", type=Path, help="also keep every sample's verdicts here, as JSON")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child.read_text().splitlines(), options.output)
        return
    results = run(options.only or list(cases()), options.workers)
    if options.raw:
        options.raw.write_text(json.dumps(results))
    rows = summary(results)
    print(report(results, rows))
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
