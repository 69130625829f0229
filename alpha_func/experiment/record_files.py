"""Files of records, CSV or JSON lines, as ``alpha-func observe`` and an ``Observer`` write them."""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from alpha_func.experiment.optimizers import InputError
from alpha_func.observer.record import StepRecord

NEEDED = ("step", "loss", "alpha_steps")
WORDS = ("optimizer", "agrees")
_USED = {*StepRecord._fields, "optimizer", "epoch", "batch", *(f"{where}_alpha_lr" for where in ("held_out", "full"))}


def read_records(path: Path, *, allow_empty: bool = False) -> pd.DataFrame:
    """The whole rows of a file of records; a last row that is being written, or was cut off, is left out.

    Args:
        path: of the file: JSON lines if its first character is a brace, CSV otherwise.
        allow_empty: a file without rows gives a table without columns, and is refused otherwise.

    Raises:
        InputError: it cannot be read, or lacks the columns of a record.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    whole = content[: content.rfind(b"\n") + 1]
    try:
        if whole.lstrip()[:1] == b"{":
            table = pd.read_json(io.BytesIO(whole), lines=True, dtype=False, precise_float=True)
        elif whole.strip():
            table = pd.read_csv(io.BytesIO(whole), index_col=False, usecols=_USED.__contains__)
        else:
            table = pd.DataFrame()
    except (ValueError, pd.errors.ParserError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path} is not a file of records: {first}") from error
    if table.empty and allow_empty:
        return table
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise InputError(
            f"{path} is not a file of records: it lacks {', '.join(missing)}; alpha-func observe, CSVLog and "
            "JSONLinesLog write such files"
        )
    if table.empty:
        raise InputError(f"{path} has no rows yet: nothing to draw")
    for name in table:
        if name not in WORDS and table[name].dtype != np.float64:
            table[name] = pd.to_numeric(table[name], errors="coerce").astype(np.float64)
    if not np.isfinite(table.step).all():
        raise InputError(f"{path} is not a file of records: its steps are not all numbers")
    table["step"] = table.step.astype(np.int64)
    return table
