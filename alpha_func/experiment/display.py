"""What a run shows on the terminal: a progress bar, the notebook's lines, a table at the end."""

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alpha_func.experiment.run import Summary
from alpha_func.experiment.summary import Course
from alpha_func.experiment.terminal import Terminal
from alpha_func.experiment.training import Observation

REFRESH_SECONDS = 0.1  # the bar is told of a step this often, so that showing it costs nothing


class Display:
    """A run's progress on the terminal; ``began`` once it trains."""

    def __init__(self, terminal: Terminal, *, verbose: bool = False):
        self._terminal, self._verbose = terminal, verbose
        self.began = False
        self._names: Sequence[str] = ()
        self._shown = 0.0
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4g}  α* {task.fields[alpha]:.4g}"),
            console=terminal.console,
            disable=not terminal.console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, start=False, visible=False, loss=0.0, alpha=0.0)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    def start(self, planned: int, names: Sequence[str], notes: Sequence[str]) -> None:
        """The run begins: its steps, the names of its parameters, and what was done to the data."""
        self.began, self._names = True, names
        for note in notes:
            self._terminal.print(f"data: {note}")
        self._progress.start_task(self._task)
        self._progress.update(self._task, total=planned, visible=True)

    def observed(self, observation: Observation) -> None:
        """A step was recorded."""
        record, line = observation
        more = record.more
        if self._verbose and more["batch"] == 0:
            at = f"epoch {more['epoch']}, {more['optimizer']}"
            listed = ", ".join(f"{name} {more[f'step_norm.{name}']:.4g}" for name in self._names)
            self._terminal.print(f"{at}: step norms {listed}")
            if more["epoch"] % 10 == 0:
                self._terminal.print(f"{at}: loss {record.loss:.6g}")
        now = time.perf_counter()
        if now - self._shown > REFRESH_SECONDS or line is not None:
            self._shown = now
            self._progress.update(self._task, completed=record.step + 1, loss=record.loss, alpha=record.alpha_lr)


def show_summary(terminal: Terminal, summary: Summary) -> None:
    """The short table of a run: a row for each optimizer, or where that is too wide a table for each."""
    if summary.interrupted:
        terminal.print(f"interrupted: the {_rows(summary)} recorded so far are kept")
    for course in summary.courses:
        if course.diverged is not None:
            terminal.print(f"{course.optimizer} diverged: its loss is not finite at step {course.diverged}")
    recorded = [course for course in summary.courses if course.recorded]
    if not recorded:
        return
    if len(recorded) > 1:
        together = _comparison(recorded)
        options = terminal.console.options.update(width=10**6)
        if terminal.console.measure(together, options=options).maximum <= terminal.console.width:
            terminal.print(together, wrap=True)
            return
    for course in recorded:
        terminal.print(_one(course, summary.planned, named=len(recorded) > 1), wrap=True)


def _rows(summary: Summary) -> str:
    return f"{summary.recorded} row{'s' * (summary.recorded != 1)}"


def _one(course: Course, planned: int, *, named: bool) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    if named:
        table.add_row(course.optimizer, "")
    table.add_row("steps recorded", f"{course.recorded} of {planned}")
    if course.finite < course.recorded:
        table.add_row("of them finite", f"{course.finite}")
    of = "finite steps" if course.finite < course.recorded else "steps"
    rows = [
        ("median α*", _number(course.alpha)),
        *((f"median α* on {where}", _number(alpha)) for where, alpha in _of_other_samples(course).items()),
        ("moving average of α*", "" if math.isnan(course.average) else f"{course.average:.4g}"),
        ("curvature ≤ 0", _share(course.non_positive, f" of {of}")),
        ("beyond the edge (lr/α* > 2)", _share(course.beyond_edge, f" of {of}")),
        ("time per step / plain training", "" if math.isnan(course.cost) else f"{course.cost:.2f}"),
    ]
    for name, value in rows:
        if value:
            table.add_row(name, value)
    return table


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _share(share: float, of: str = "") -> str:
    return "" if math.isnan(share) else f"{share:.1%}{of}"


def _of_other_samples(course: Course) -> dict[str, float]:
    """α* on other samples than the direction's own, where it was measured."""
    found = {"a held-out batch": course.held_out_alpha, "all samples": course.full_alpha}
    return {where: alpha for where, alpha in found.items() if not math.isnan(alpha)}


def _comparison(courses: Sequence[Course]) -> Table:
    """One optimizer a row; the loss is the last epoch's median, the time that of a step over plain training's."""
    others = list(dict.fromkeys(where for course in courses for where in _of_other_samples(course)))
    columns = {
        "optimizer": [course.optimizer for course in courses],
        "steps": [str(course.recorded) for course in courses],
        "finite": [str(course.finite) if course.finite < course.recorded else "" for course in courses],
        "median α*": [_number(course.alpha) for course in courses],
        **{
            f"on {where}": [_number(_of_other_samples(course).get(where, math.nan)) for course in courses]
            for where in others
        },
        "average": [_number(course.average) for course in courses],
        "curv. ≤ 0": [_share(course.non_positive) for course in courses],
        "lr/α* > 2": [_share(course.beyond_edge) for course in courses],
        "loss": [_number(course.loss) for course in courses],
        "time": ["" if math.isnan(course.cost) else f"{course.cost:.2f}" for course in courses],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table
