"""The user's table: a CSV file or what comes from stdin, read unchanged or refused, all of its faults at once."""

import difflib
import gzip
import io
import lzma
import stat
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.settings import STDIN, Experiment

MOST_VALUES = 100  # of a text column, where each becomes a column of 0 and 1
SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_COMPRESSED: dict[str, object] = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}
_TORN = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_Columns = dict[Any, pd.Series]


class Columns(NamedTuple):
    """Inputs and target of the rows that are used, and what was done to make them so, a sentence each."""

    inputs: pd.DataFrame
    target: pd.Series
    notes: list[str]


def read(experiment: Experiment) -> Columns:
    """The columns of an experiment's CSV file; the inputs are numbers, a regression's target too.

    Raises:
        InputError: the file cannot be read, or has what the options do not say how to treat.
    """
    name = "stdin" if experiment.data == STDIN else experiment.data
    table, notes = _named(_Source(experiment, name), experiment, name)
    target = table.pop(experiment.target)
    classes = experiment.task == "classification"
    numbers = {column: pd.to_numeric(table[column], errors="coerce").astype(np.float64) for column in table}
    if not classes:
        numbers[experiment.target] = pd.to_numeric(target, errors="coerce").astype(np.float64)
    columns = {**table, experiment.target: target}
    inputs = _numbers(columns, numbers, experiment, name)
    target = target if classes else inputs.pop(experiment.target)
    kept = _kept(inputs, target, experiment, name)
    if not kept.all():
        notes.append(f"{(~kept).sum()} of {len(kept)} rows left out: they have missing values")
    if not kept.any():
        raise InputError(f"{name} has no row without missing values: --missing mean fills them in")
    inputs, target = inputs[kept], target[kept]
    filled = inputs.isna().any()
    if filled.any():
        notes.append(f"missing values of {_listed(inputs.columns[filled])} filled in by the mean")
    inputs = inputs.fillna(inputs.mean())
    if target.nunique() < 2:
        raise InputError(
            f"target {experiment.target!r} of {name} is the same in all rows used: there is nothing to learn"
        )
    return Columns(inputs, target, notes)


class _Source:
    """What pandas can read twice: a path, or the bytes of a pipe."""

    def __init__(self, experiment: Experiment, name: str):
        self._name = name
        self._options: dict[str, Any] = {
            "sep": experiment.separator,
            "encoding": experiment.encoding,
            "skipinitialspace": True,
        }
        path = Path(experiment.data)
        if experiment.data != STDIN:
            self._check(path, experiment)
            self._options["compression"] = _COMPRESSED.get(path.suffix.lower())
        if experiment.data == STDIN or not path.is_file():
            stream = getattr(sys.stdin, "buffer", None)
            if experiment.data == STDIN and stream is None:
                raise InputError("--data - reads stdin, and there is none: give a CSV file")
            content = stream.read() if experiment.data == STDIN and stream else path.read_bytes()
            self._open: Callable[[], object] = lambda: io.BytesIO(content)
        else:
            self._open = lambda: path

    def _check(self, path: Path, experiment: Experiment) -> None:
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            raise InputError(
                f"data file {experiment.data} does not exist: give a CSV file, normal, diabetes, digits, or - for stdin"
            ) from error
        if stat.S_ISDIR(mode):
            found = sorted(str(file) for file in path.glob("*.csv*"))[:3]
            example = f", such as {', '.join(found)}" if found else ""
            raise InputError(f"data {experiment.data} is a folder: give a CSV file{example}")
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and path != Path("/dev/stdin")):
            raise InputError(f"data {experiment.data} is a device: give a CSV file, or - for stdin")

    def read(self, **options: Any) -> pd.DataFrame:
        """pandas.read_csv, its errors in one line."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # values would be left out
                return pd.read_csv(self._open(), index_col=False, low_memory=False, **self._options, **options)
        except _TORN as error:
            raise InputError(f"data file {self._name} is cut off or damaged ({error}): download it again") from error
        except pd.errors.ParserWarning as error:
            raise InputError(
                f"{self._name} has more values in its rows than names in its header: name every column"
            ) from error
        except UnicodeError as error:
            raise InputError(
                f"{self._name} is not {self._options['encoding']}: give its --encoding, such as cp1252"
            ) from error
        except MemoryError as error:
            raise InputError(f"{self._name} does not fit in memory") from error
        except (OSError, ValueError, LookupError, pd.errors.ParserError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"data file {self._name} is not a readable CSV: {first}") from error


def _named(source: _Source, experiment: Experiment, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The table with the names of its header, and the target among them."""
    header = source.read(header=None, nrows=1, dtype=str, keep_default_na=False)
    names = [str(value).strip() for value in header.iloc[0]]
    hint = _other_separator(names, experiment.separator)
    if hint:
        raise InputError(
            f"{name} has a single column, {names[0]!r}: if {hint} separates its values, give --separator {hint}"
        )
    repeated = sorted({each for each in names if each and names.count(each) > 1})
    if repeated:
        raise InputError(f"{name} has several columns named {_listed(repeated)}: rename them")
    if experiment.target is None:
        raise InputError(f"--target is missing: name the column of {name} to predict; it has {_listed(names)}")
    unknown = [each for each in (experiment.target, *experiment.leave_out) if each not in names or not each]
    if unknown:
        what = "target" if experiment.target in unknown else "leave out"
        close = difflib.get_close_matches(unknown[0], names, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{what} {unknown[0]!r} is not a column of {name}: it has {_listed(names)}{meant}")
    if experiment.target in experiment.leave_out:
        raise InputError(f"leave out names the target {experiment.target!r}: leave out others")
    table = source.read(header=0, decimal=experiment.decimal)
    if table.empty:
        raise InputError(f"{name} has no rows below its header")
    nameless = [k for k, each in enumerate(names) if not each or each.startswith("Unnamed: ")]
    table.columns = pd.Index(range(len(names)))
    notes = []
    for k in nameless:
        if not _counts_rows(table[k]):
            raise InputError(f"column {k + 1} of {name} has no name: give it one in the header")
        notes.append(f"column {k + 1} has no name and counts the rows: left out")
    kept = [k for k in range(len(names)) if k not in nameless and names[k] not in experiment.leave_out]
    table = table[kept].set_axis([names[k] for k in kept], axis=1)
    if len(kept) < 2:
        raise InputError(f"{name} has the target alone: at least one column to predict from is needed")
    return table, notes


def _other_separator(names: Sequence[str], separator: str) -> str | None:
    if len(names) > 1:
        return None
    counts = {shown: names[0].count(other) for other, shown in SEPARATORS.items() if other != separator}
    best = max(counts, key=lambda shown: counts[shown])
    return best if counts[best] else None


def _counts_rows(column: pd.Series) -> bool:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    return any(np.array_equal(numbers, np.arange(first, first + len(numbers))) for first in (0, 1))


def _numbers(columns: _Columns, numbers: _Columns, experiment: Experiment, name: str) -> pd.DataFrame:
    """The columns as numbers, those of text as the options say."""
    text = {key: bad for key, each in numbers.items() if (bad := each.isna() & columns[key].notna()).any()}
    if experiment.target in text:
        remedy = "for class labels use --task classification" + _decimal_hint(columns, text, experiment)
        raise InputError(f"target {_where(columns, text, [experiment.target])} of {name} is text: {remedy}")
    if text and experiment.text == "refuse":
        remedy = (
            "--text one-hot makes a column of 0 and 1 of each of its values, --text leave-out leaves such columns out"
            + _decimal_hint(columns, text, experiment)
        )
        raise InputError(f"{name} has text in column {_where(columns, text, list(text))}: {remedy}")
    made: dict[object, pd.Series] = {}
    for key, each in numbers.items():
        if key not in text:
            made[key] = each
        elif experiment.text == "one-hot":
            values = sorted(columns[key].dropna().astype(str).unique())
            if len(values) > MOST_VALUES:
                raise InputError(
                    f"column {key!r} of {name} has {len(values)} different texts, more than {MOST_VALUES} columns of 0 "
                    f"and 1: --leave-out {key}"
                )
            for value in values:
                made[f"{key}={value}"] = (
                    (columns[key].astype(str) == value).astype(np.float64).where(columns[key].notna())
                )
    infinite = {key: bad for key, each in made.items() if (bad := each.abs() == np.inf).any()}
    if infinite:
        raise InputError(f"{name} has infinity in column {_where(made, infinite, list(infinite))}: fix those rows")
    frame = pd.DataFrame(made)
    if len(frame.columns) < (1 if experiment.task == "classification" else 2):
        raise InputError(f"{name} has no column of numbers to predict from: --text one-hot uses those of text")
    return frame


def _kept(inputs: pd.DataFrame, target: pd.Series, experiment: Experiment, name: str) -> Any:
    """The rows that are used."""
    missing = {key: bad for key, bad in inputs.isna().items() if bad.any()}
    if target.isna().any():
        missing[experiment.target] = target.isna()
    everything = {**inputs, experiment.target: target}
    if missing and experiment.missing == "refuse":
        raise InputError(
            f"{name} has missing values in column {_where(everything, missing, list(missing))}: --missing drop leaves "
            "those rows out, --missing mean fills in the column's mean"
        )
    empty = [key for key, each in inputs.items() if each.isna().all()]
    if empty:
        raise InputError(f"{name} has no values at all in {_listed(empty)}: --leave-out {','.join(map(str, empty))}")
    kept = target.notna()
    return kept & inputs.notna().all(axis=1) if experiment.missing == "drop" else kept


def _decimal_hint(columns: _Columns, text: _Columns, experiment: Experiment) -> str:
    comma = (columns[key][bad].astype(str).str.fullmatch(r"[+-]?\d+,\d+").all() for key, bad in text.items())
    return "; for a decimal comma give --decimal ," if experiment.decimal == "." and any(comma) else ""


def _where(columns: _Columns, marked: _Columns, keys: Sequence[object]) -> str:
    """The columns, each with its first marked row, counted from 1 below the header, and what stands there."""
    shown = []
    for key in keys[:8]:
        row = int(np.argmax(marked[key].to_numpy()))
        value = columns[key].iloc[row]
        stands = "" if pd.isna(value) else f": {str(value)[:40]!r}" if isinstance(value, str) else f": {value}"
        shown.append(f"{key!r} (data row {row + 1}{stands})")
    return ", ".join(shown) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")


def _listed(names: Iterable[Any]) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
