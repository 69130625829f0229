"""A whole run: train, record, draw, and keep what there is when it is interrupted."""

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from alpha_func.errors import StrategyError
from alpha_func.experiment import other_samples as elsewhere
from alpha_func.experiment.data import Data, load
from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.pictures import draw_alpha, draw_comparison, draw_lines
from alpha_func.experiment.settings import Experiment, network
from alpha_func.experiment.training import (
    Line,
    Observation,
    median,
    observe,
    plain_step_seconds,
    steps_of,
    training_loss,
)
from alpha_func.observer.loggers import CSVLog

STEPS, CONFIGURATION, ALPHA_PICTURE, LINES_PICTURE = "steps.csv", "config.json", "alpha.png", "lines.png"
LIBRARIES = ("torch", "numpy", "pandas", "scikit-learn", "matplotlib")


@dataclass
class Course:
    """What a run came to with one optimizer.

    Attributes:
        optimizer: its label.             recorded: its rows in steps.csv.
        alpha: median α*, a learning rate.
        held_out_alpha, full_alpha: that of the next mini-batch, and of all samples, where they were measured.
        non_positive: share of steps with curvature ≤ 0.
        beyond_edge: share of steps with lr/α* > 2.
        loss: median loss of the last epoch that was recorded.
        cost: median time of a recorded step over one of plain training.
        seconds: of its recorded steps alone.
    """

    optimizer: str
    recorded: int = 0
    alpha: float = math.nan
    held_out_alpha: float = math.nan
    full_alpha: float = math.nan
    non_positive: float = math.nan
    beyond_edge: float = math.nan
    loss: float = math.nan
    cost: float = math.nan
    seconds: list[float] = field(default_factory=list)


@dataclass
class Summary:
    """What a run came to.

    Attributes:
        planned: steps of the whole run.
        courses: one for each optimizer.
        interrupted: whether Ctrl-C ended it.
        files: what it left.
    """

    planned: int
    courses: dict[str, Course]
    files: list[Path]
    interrupted: bool = False

    @property
    def recorded(self) -> int:
        """Rows in steps.csv."""
        return sum(course.recorded for course in self.courses.values())


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
    elsewhere.check_samples(experiment, data)
    module = network(experiment, data.inputs.shape[1], data.outputs)
    names = [name for name, _ in module.named_parameters()]
    loss = training_loss(experiment, data, module)
    _check_strategy(experiment, data, module, loss)
    _make(folder)
    (folder / CONFIGURATION).write_text(json.dumps(_configuration(experiment, command), indent=2) + "\n")
    courses = {label: Course(label) for label in experiment.optimizers}
    summary = Summary(steps_of(experiment, data), courses, [folder / STEPS, folder / CONFIGURATION])
    lines: list[Line] = []
    on_start(summary.planned, names)
    try:
        with closing(CSVLog(folder / STEPS)) as log:
            started, previous = time.perf_counter(), dict.fromkeys(courses, -1)
            for record, line in _side_by_side(experiment, data, module, loss):
                log(record)
                label = record.more["optimizer"]
                course = courses[label]
                course.recorded += 1
                if line is not None:
                    lines.append(line)
                elif record.step == previous[label] + 1 and not (
                    experiment.full_data != 1 and experiment.measures_all(record.step)
                ):  # the step alone: no line sampled, not all samples measured, no unrecorded steps before it
                    course.seconds.append(time.perf_counter() - started)
                on_observation(Observation(record, line))
                previous[label] = record.step
                started = time.perf_counter()
    except KeyboardInterrupt:
        summary.interrupted = True
    if summary.recorded:
        _finish(summary, experiment, data, folder, lines)
    return summary


def _side_by_side(
    experiment: Experiment, data: Data, module: nn.Module, loss: Callable[..., Tensor]
) -> Iterator[Observation]:
    """Step after step what every optimizer does there, so that an interrupted run compares them too."""
    runs = [observe(experiment, data, module, algorithm, loss=loss) for algorithm in experiment.algorithms()]
    while True:  # one after another: zip would take a step of each before it gives the first
        for each in runs:
            observation = next(each, None)
            if observation is None:  # all of them are of one length
                return
            yield observation


def _check_strategy(experiment: Experiment, data: Data, module: nn.Module, loss: Callable[..., Tensor]) -> None:
    """Take a first step, so that a strategy that cannot run is known before anything is written."""
    try:
        for algorithm in experiment.algorithms():
            next(observe(experiment, data, module, algorithm, loss=loss))
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


def _finish(summary: Summary, experiment: Experiment, data: Data, folder: Path, lines: list[Line]) -> None:
    table = pd.read_csv(folder / STEPS)
    for algorithm in experiment.algorithms():
        course, rows = summary.courses[algorithm.label], table[table.optimizer == algorithm.label]
        course.alpha = float(rows.alpha_lr.median())
        course.held_out_alpha, course.full_alpha = (
            float(rows[name].median()) if name in rows else math.nan for name in ("held_out_alpha_lr", "full_alpha_lr")
        )
        course.non_positive = float((rows.curvature <= 0).mean())
        course.beyond_edge = float(((rows.alpha_steps > 0) & (rows.alpha_steps < 0.5)).mean())
        course.loss = float(rows.loss[rows.epoch == rows.epoch.max()].median())
        fresh = network(experiment, data.inputs.shape[1], data.outputs)
        course.cost = median(course.seconds) / plain_step_seconds(experiment, data, fresh, algorithm)
    title = _title(experiment)
    draw = draw_alpha if len(experiment.optimizers) == 1 else draw_comparison
    draw(table, folder / ALPHA_PICTURE, title=title)
    steps = len({line.step for line in lines})
    draw_lines(lines, folder / LINES_PICTURE, title=f"{title}: the loss along d at {steps} steps")
    summary.files += [folder / ALPHA_PICTURE, folder / LINES_PICTURE]


def _title(experiment: Experiment) -> str:
    network = f"{experiment.activation} {'-'.join(map(str, experiment.hidden)) or 'linear'}"
    optimizers = "plain SGD" if experiment.optimizers == ("sgd",) else ", ".join(experiment.optimizers)
    shared = "".join(f", {name.replace('_', ' ')} {value}" for name, value in experiment.shared_options().items())
    title = f"{Path(experiment.data).name}, {network}, {optimizers}{shared}"
    if all("lr=" in label for label in experiment.optimizers):
        return title
    return f"{title}, lr {experiment.lr:g}" if experiment.lr is not None else f"{title}, lr = {experiment.factor:g}·α*"
