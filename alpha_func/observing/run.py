"""A whole run: train, record, draw, and keep what there is when it is interrupted."""

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from alpha_func.failures import StrategyError
from alpha_func.observing.data import Data, load
from alpha_func.observing.experiment import Experiment, InputError, network
from alpha_func.observing.pictures import draw_alpha, draw_lines
from alpha_func.observing.records import RecordFile
from alpha_func.observing.training import Line, Observation, median, observe, plain_step_seconds, steps_of

STEPS, CONFIGURATION, ALPHA_PICTURE, LINES_PICTURE = "steps.csv", "config.json", "alpha.png", "lines.png"
LIBRARIES = ("torch", "numpy", "pandas", "scikit-learn", "matplotlib")


@dataclass
class Summary:
    """What a run came to.

    Attributes:
        recorded: rows in steps.csv.      planned: steps of the whole run.
        alpha: median α*.                 non_positive: share of steps with curvature ≤ 0.
        beyond_edge: share of steps with lr/α* > 2.
        cost: median time of a recorded step over one of plain training.
        interrupted: whether Ctrl-C ended it.
        files: what it left.
    """

    recorded: int = 0
    planned: int = 0
    alpha: float = math.nan
    non_positive: float = math.nan
    beyond_edge: float = math.nan
    cost: float = math.nan
    interrupted: bool = False
    files: list[Path] = field(default_factory=list)


def run(
    experiment: Experiment,
    folder: Path,
    *,
    command: Sequence[str] = (),
    on_start: Callable[[int, Sequence[str]], None] = lambda steps, names: None,
    on_observation: Callable[[Observation], None] = lambda observation: None,
) -> Summary:
    """Run an experiment into a new folder: steps.csv, config.json, alpha.png, lines.png.

    Args:
        experiment: what to run.
        folder: where its files go; made, and refused if it holds a run already.
        command: the command line, kept in config.json.
        on_start: called with the number of steps and the names of the parameters.
        on_observation: called after each record is on disk.

    Raises:
        InputError: the data or the folder cannot be used; nothing was written.
    """
    data = load(experiment)
    module = network(experiment, data.inputs.shape[1], data.outputs)
    names = [name for name, _ in module.named_parameters()]
    _check_strategy(experiment, data, module)
    _make(folder)
    (folder / CONFIGURATION).write_text(json.dumps(_configuration(experiment, command), indent=2) + "\n")
    summary = Summary(planned=steps_of(experiment, data), files=[folder / STEPS, folder / CONFIGURATION])
    lines: list[Line] = []
    seconds: list[float] = []
    on_start(summary.planned, names)
    try:
        with RecordFile(folder / STEPS, names) as records:
            started, previous = time.perf_counter(), -1
            for record, line in observe(experiment, data, module):
                records.write(record)
                summary.recorded += 1
                if line is not None:
                    lines.append(line)
                elif record.step == previous + 1:  # the step alone: no line sampled, no unrecorded steps before it
                    seconds.append(time.perf_counter() - started)
                on_observation(Observation(record, line))
                started, previous = time.perf_counter(), record.step
    except KeyboardInterrupt:
        summary.interrupted = True
    if summary.recorded:
        _finish(summary, experiment, data, folder, lines, seconds)
    return summary


def _check_strategy(experiment: Experiment, data: Data, module: nn.Module) -> None:
    """Take a first step, so that a strategy that cannot run is known before anything is written."""
    try:
        next(observe(experiment, data, module))
    except StrategyError as error:
        raise InputError(str(error)) from error


def _make(folder: Path) -> None:
    for name in (STEPS, CONFIGURATION, ALPHA_PICTURE, LINES_PICTURE):
        if (folder / name).exists():
            raise InputError(f"{folder} already holds a run ({name}): choose another --out, or remove that folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".alpha-func-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): choose another --out") from error


def _configuration(experiment: Experiment, command: Sequence[str]) -> dict[str, Any]:
    return {
        "command": list(command),
        "experiment": experiment.settings(),
        "versions": {
            "python": platform.python_version(),
            "alpha-func": version("alpha-func"),
            **{library: version(library) for library in LIBRARIES},
        },
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _finish(
    summary: Summary, experiment: Experiment, data: Data, folder: Path, lines: list[Line], seconds: list[float]
) -> None:
    table = pd.read_csv(folder / STEPS)
    summary.alpha = float(table.alpha.median())
    summary.non_positive = float((table.curvature <= 0).mean())
    summary.beyond_edge = float((table.lr_over_alpha > 2).mean())
    plain = plain_step_seconds(experiment, data, network(experiment, data.inputs.shape[1], data.outputs))
    summary.cost = median(seconds) / plain
    title = _title(experiment)
    draw_alpha(table, folder / ALPHA_PICTURE, title=title)
    draw_lines(lines, folder / LINES_PICTURE, title=f"{title}: the loss along d at {len(lines)} steps")
    summary.files += [folder / ALPHA_PICTURE, folder / LINES_PICTURE]


def _title(experiment: Experiment) -> str:
    rate = f"lr {experiment.lr:g}" if experiment.lr is not None else f"lr = {experiment.factor:g}·α*"
    name = Path(experiment.data).name
    return f"{name}, {experiment.activation} {'-'.join(map(str, experiment.hidden)) or 'linear'}, plain SGD, {rate}"
