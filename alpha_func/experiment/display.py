"""What a run shows on the terminal: a progress bar, the notebook's lines, a table at the end."""

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alpha_func.experiment.run import Course, Summary
from alpha_func.experiment.training import Observation

REFRESH_SECONDS = 0.1  # the bar is told of a step this often, so that showing it costs nothing


class Display:
    """A run's progress on the terminal."""

    def __init__(self, *, verbose: bool = False, several: bool = False, console: Console | None = None):
        self._several = several
        self._console = console or Console(highlight=False)
        self._verbose = verbose
        self._names: Sequence[str] = ()
        self._shown = 0.0
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4g}  α* {task.fields[alpha]:.4g}"),
            console=self._console,
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

    def start(self, steps: int, names: Sequence[str]) -> None:
        """The run begins: its steps, and the names of its parameters."""
        self._names = names
        self._progress.start_task(self._task)
        self._progress.update(self._task, total=steps, visible=True)

    def show_observation(self, observation: Observation) -> None:
        """A step was recorded."""
        record, line = observation
        more = record.more
        if self._verbose and more["batch"] == 0:
            at = f"epoch {more['epoch']}" + (f", {more['optimizer']}" if self._several else "")
            listed = ", ".join(f"{name} {more[f'step_norm.{name}']:.4g}" for name in self._names)
            self._console.print(f"{at}: step norms {listed}", soft_wrap=True)
            if more["epoch"] % 10 == 0:
                self._console.print(f"{at}: loss {record.loss:.6g}")
        now = time.perf_counter()
        if now - self._shown > REFRESH_SECONDS or line is not None:
            self._shown = now
            self._progress.update(self._task, completed=record.step + 1, loss=record.loss, alpha=record.alpha_lr)

    def show_summary(self, summary: Summary) -> None:
        """The short table of a run."""
        if summary.interrupted:
            self._console.print(f"interrupted: the {summary.recorded} rows recorded so far are kept")
        courses = list(summary.courses.values())
        self._console.print(_comparison(courses) if self._several else _one(courses[0], summary.planned))
        for path in summary.files:
            self._console.print(f"wrote {path}", soft_wrap=True)


def _one(course: Course, planned: int) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("steps recorded", f"{course.recorded} of {planned}")
    table.add_row("median α*", f"{course.alpha:.4g}")
    for where, alpha in _elsewhere(course).items():
        table.add_row(f"median α* on {where}", f"{alpha:.4g}")
    table.add_row("curvature ≤ 0", f"{course.non_positive:.1%} of steps")
    table.add_row("beyond the edge (lr/α* > 2)", f"{course.beyond_edge:.1%} of steps")
    table.add_row("time per step / plain training", f"{course.cost:.2f}")
    return table


def _elsewhere(course: Course) -> dict[str, float]:
    """α* on other samples than the direction's own, where it was measured."""
    found = {"a held-out batch": course.held_out_alpha, "all samples": course.full_alpha}
    return {where: alpha for where, alpha in found.items() if not math.isnan(alpha)}


def _comparison(courses: Sequence[Course]) -> Table:
    """One optimizer a row; the loss is the last epoch's median, the time that of a step over plain training's."""
    others = list(dict.fromkeys(where for course in courses for where in _elsewhere(course)))
    alphas = ("median α*", *(f"on {where}" for where in others))
    table = Table("optimizer", "steps", *alphas, "curv. ≤ 0", "lr/α* > 2", "loss", "time", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for course in courses:
        shares = (f"{share:.1%}" for share in (course.non_positive, course.beyond_edge))
        table.add_row(
            course.optimizer, str(course.recorded), f"{course.alpha:.4g}",
            *(f"{_elsewhere(course).get(where, math.nan):.4g}" for where in others),
            *shares, f"{course.loss:.4g}", f"{course.cost:.2f}",
        )  # fmt: skip
    return table
