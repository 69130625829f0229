"""The file of sampled lines: a JSON object a line, so that the picture of a run can be drawn again."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from alpha_func.experiment.training import Line
from alpha_func.quadratic import Quadratic


def as_json(line: Line) -> str:
    """One line of the file."""
    fields = {
        "optimizer": line.optimizer,
        "step": line.step,
        "lr": line.lr,
        "quadratic": [float(number) for number in line.quadratic],
        "alphas": line.alphas.tolist(),
        "losses": line.losses.tolist(),
    }
    return json.dumps({name: _strict(value) for name, value in fields.items()}) + "\n"


def read(path: Path) -> list[Line]:
    """The lines of a file that are whole; none if there is no file."""
    return list(_parsed(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def _parsed(rows: Iterable[str]) -> Iterator[Line]:
    for row in rows:
        try:
            found = json.loads(row)
            value, slope, curvature = (torch.tensor(float(n), dtype=torch.float64) for n in found["quadratic"])
            alphas, losses = (
                torch.tensor([float(number) for number in found[name]], dtype=torch.float64)
                for name in ("alphas", "losses")
            )
            quadratic = Quadratic(value, slope, curvature)
            yield Line(str(found["optimizer"]), int(found["step"]), alphas, losses, quadratic, float(found["lr"]))
        except (KeyError, TypeError, ValueError):  # torn
            continue


def _strict(value: object) -> object:
    """JSON has no NaN and no infinity: they are strings, which ``float`` reads."""
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
