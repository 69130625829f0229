"""Option strings and tables made by hypothesis, and what may be said of each: ``python -m tests.experiment.fuzz 500``.

A command line ends with 0 and true statements, or with 2, one line, and nothing written.
"""

import contextlib
import csv
import io
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpha_func.experiment.cli import main
from alpha_func.experiment.data import load
from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.plot import plot_records
from alpha_func.experiment.settings import Experiment
from alpha_func.observer.record import StepRecord

ODD = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e300",
    "1e-300",
    "1e400",
    "",
    " ",
    "x",
    "α",
    "[red]",
    "[/]",
    "$x$",
    "9" * 30,
    "1e3",
]
USUAL = {
    "--hidden": ["5", "", "3,2", "8,", "1e1"],
    "--activation": ["relu", "tanh", "gelu", "sigmoid", "silu", "softplus"],
    "--dtype": ["float32", "float64", "bfloat16"],
    "--lr": ["0.01", "alpha", "1", "1e30", "1e-30", "cdat", "polyak", "pal", "armijo", "trusted"],
    "--momentum": ["0.9", "0"],
    "--betas": ["0.9,0.99", "0/0"],
    "--weight-decay": ["0.1", "0", "1e5"],
    "--eps": ["1e-8", "1"],
    "--factor": ["0.5", "1e10"],
    "--ema": ["0.9", "0"],
    "--seed": ["1", "12345678901234567"],
    "--every": ["1", "2", "3"],
    "--full-data": ["1", "2", "6"],
    "--optimizer": [
        "sgd",
        "momentum",
        "adam",
        "sgd,adam",
        "muon",
        "adam:lr=0.001",
        "rmsprop,adagrad,nesterov",
        "adamw:lr=alpha",
        "sgd,momentum:lr=cdat",
    ],
    "--loss": ["mse", "cross-entropy"],
    "--target": ["y"],
    "--separator": [";", "tab"],
    "--strategy": ["reverse_over_reverse", "forward_over_forward"],
}
FLAGS = ["--shuffle", "--holdout-batch", "--full-batch", "--verbose", "--text=one-hot"]


@st.composite
def options(draw):
    """A few options, most of their values usual ones."""
    found = []
    for name in draw(st.lists(st.sampled_from([*USUAL]), max_size=4, unique=True)):
        odd = draw(st.integers(0, 5)) == 0
        value = draw(st.sampled_from(ODD) | st.text(max_size=6) if odd else st.sampled_from(USUAL[name]))
        found.append(f"{name}={value}")
    found += draw(st.lists(st.sampled_from(FLAGS), max_size=2, unique=True))
    return found


def check_options(given_options):
    """Run them on a tiny run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fixed = ["--strategy=reverse_over_reverse", "--epochs=2", "--no-pictures", f"--out={out}"]
        size = [] if "--full-batch" in given_options else ["--batch-size=300"]
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                status = main(["observe", *fixed, *size, *given_options])
            except SystemExit as exit:
                status = exit.code
        said, shown = stderr.getvalue(), stdout.getvalue()
        if status == 2:
            assert said.count("\n") == 1, said
            assert not out.exists()
            return
        assert (status, said) == (0, ""), (status, said)
        check_statements(shown, out)


def check_statements(shown, out):
    """What the summary says is what the table holds."""
    told = [line for line in shown.splitlines() if not line.startswith("epoch ")]  # of a step: it may be NaN
    assert "nan" not in "".join(told).lower().replace(str(out), ""), shown
    table = pd.read_csv(out / "steps.csv")
    for label, rows in table.groupby("optimizer", sort=False):
        finite = rows[np.isfinite(rows[["loss", "slope", "curvature"]].to_numpy(dtype=float)).all(axis=1)]
        diverged = re.search(rf"^{re.escape(label)} diverged: .* at step (\d+)$", shown, re.MULTILINE)
        lost = rows.step[~np.isfinite(rows.loss)]
        assert bool(diverged) == bool(len(lost)), (label, shown)
        assert not diverged or int(diverged[1]) == lost.iloc[0]
        if table.optimizer.nunique() > 1:
            continue
        assert re.search(rf"steps recorded +{len(rows)} of {len(rows)} *$", shown, re.MULTILINE), shown
        alpha = finite.alpha_lr[np.isfinite(finite.alpha_lr)]
        if len(alpha):
            assert re.search(rf"median α\* +{re.escape(f'{alpha.median():.4g}')} *$", shown, re.MULTILINE), shown
        if len(finite):
            assert f"{(finite.curvature <= 0).mean():.1%} of" in shown
    for path in re.findall(r"^wrote (.*)$", shown, re.MULTILINE):
        assert Path(path).exists()


TEXTS = ["x", "y z", "a,b", 'q"q', "[red]", "$", "ü", "1,5", "--", "a;b", "two\nlines"]
NUMBERS = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.integers(-50, 50).map(str)


@st.composite
def tables(draw):
    """(names, rows of cells, options): y is the target."""
    name = st.text("abΔ $[]_.|", min_size=1, max_size=3).map(str.strip).filter(bool)
    names = [*draw(st.lists(name | st.just(""), min_size=1, max_size=4)), "y"]
    kinds = {
        "number": NUMBERS,
        "text": st.sampled_from(TEXTS),
        "holes": NUMBERS | st.sampled_from(["", "NA"]),
        "constant": st.just(draw(NUMBERS)),
        "infinite": NUMBERS | st.just("inf"),
    }
    usual = ["number"] * 6
    columns = [draw(st.sampled_from([*usual, *kinds])) for _ in names]
    count = draw(st.integers(1, 8))
    rows = [[draw(kinds[kind]) for kind in columns] for _ in range(count)]
    if draw(st.integers(0, 9)) == 0:
        rows[-1].append("7")
    text, missing = (
        draw(st.sampled_from(["refuse", "one-hot", "leave-out"])),
        draw(st.sampled_from(["refuse", "drop", "mean"])),
    )
    return names, rows, {"text": text, "missing": missing, "separator": draw(st.sampled_from([",", ";", "\t"]))}


def check_table(table):
    """A table is read as what it is, or refused where it must be."""
    names, rows, chosen = table
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=chosen["separator"]).writerows([names, *rows])
        expected = read_by_hand(names, rows, chosen)
        try:
            data = load(Experiment(data=str(path), target="y", dtype="float64", **chosen))
        except InputError:
            if expected is not None:
                raise
            return
    assert expected is not None, "not refused"
    inputs, target = expected
    assert data.inputs.shape == inputs.shape
    for got, column in zip(data.inputs.T.tolist() + data.targets.T.tolist(), [*inputs.T, target], strict=True):
        largest = np.abs(column).max()
        scaled = column / largest if largest else column
        deviation = scaled.std()
        if deviation < 1e-12:  # constant, or so near that it may count as that
            assert np.ptp(column) or not any(got)
        else:
            np.testing.assert_allclose(got, ((scaled - scaled.mean()) / deviation).astype(float), rtol=1e-6, atol=1e-9)


def number_of(cell):
    """The number in a cell; NaN where there is nothing, None where there is text."""
    if cell.strip() in ("", "NA"):
        return np.nan
    try:
        return float(cell)
    except ValueError:
        return None


def read_by_hand(names, rows, chosen):
    """Inputs and target by the rules in docs/command_line.md, cell by cell; None where it must be refused."""
    if any(len(row) != len(names) for row in rows):
        return None
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        return None
    columns = {}
    for k, name in enumerate(names):
        cells = [row[k] for row in rows]
        numbers = [number_of(cell) for cell in cells]
        if not name:
            counted = any(numbers == list(range(first, first + len(rows))) for first in (0, 1))
            if not counted:
                return None
        elif None not in numbers:
            columns[name] = np.array(numbers, dtype=np.longdouble)
        elif chosen["text"] == "refuse" or name == "y":
            return None
        elif chosen["text"] == "one-hot":
            texts = [None if cell.strip() in ("", "NA") else cell for cell in cells]
            for value in sorted({text for text in texts if text is not None}):
                holes = [np.nan if text is None else float(text == value) for text in texts]
                columns[f"{name}={value}"] = np.array(holes, dtype=np.longdouble)
    target = columns.pop("y")
    inputs = np.array([*columns.values()], dtype=np.longdouble).reshape(len(columns), len(rows)).T
    if not len(columns) or np.isinf(inputs).any() or np.isinf(target).any():
        return None
    holes = np.isnan(inputs).any() or np.isnan(target).any()
    if (holes and chosen["missing"] == "refuse") or np.isnan(inputs).all(axis=0).any():
        return None
    kept = ~np.isnan(target)
    if chosen["missing"] == "drop":
        kept &= ~np.isnan(inputs).any(axis=1)
    inputs, target = inputs[kept], target[kept]
    if not kept.any() or np.isnan(inputs).all(axis=0).any() or len(np.unique(target)) < 2:
        return None
    return np.where(np.isnan(inputs), np.nanmean(inputs, axis=0), inputs), target


@st.composite
def records(draw):
    """A table of records as bad as a run can make them."""
    count = draw(st.integers(1, 40))
    number = st.floats(width=32) | st.floats(0.1, 10)
    names = ["step", "loss", "alpha_steps", *draw(st.sets(st.sampled_from(StepRecord._fields[3:17])))]
    table = {name: [draw(number) for _ in range(count)] for name in names} | {"step": range(count)}
    if draw(st.booleans()):
        labels = draw(st.lists(st.text(max_size=5), min_size=1, max_size=4))
        table["optimizer"] = [labels[k % len(labels)] for k in range(count)]
    return pd.DataFrame(table)


def check_records(table):
    """They are drawn."""
    with tempfile.TemporaryDirectory() as folder:
        plot_records(table, Path(folder) / "alpha.png", ema=0.5)
        assert (Path(folder) / "alpha.png").read_bytes().startswith(b"\x89PNG")


PARTS = {
    "options": (options(), check_options),
    "tables": (tables(), check_table),
    "records": (records(), check_records),
}


def fuzz(part, examples):
    """Check so many; the first that fails is shrunk and raised."""
    made, check = PARTS[part]
    how = settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    how(given(made)(lambda example: check(example)))()


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".torch.jit.script")
    for name in sys.argv[2:] or PARTS:
        fuzz(name, int(sys.argv[1]))
        print(f"{name}: {sys.argv[1]} and no fault")
