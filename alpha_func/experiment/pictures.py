"""The pictures of a run: α* over training, and the loss along a handful of lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from alpha_func.experiment.training import Line

POINT, TREND, REFERENCE, WARNING = "#9db8d9", "#1f4e8c", "#444444", "#c8372d"
ELSEWHERE = {"a held-out batch": "#2a8c5a", "all samples": "#d98200"}
LINES = {"a held-out batch": "--", "all samples": "-."}
STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}


def draw_alpha(table: pd.DataFrame, path: Path, *, title: str) -> None:
    """α*, lr/α*, curvature and loss per step, each with its running median.

    Log scales; a step that has no place on one (α* or curvature not positive) is marked at the bottom edge, and the
    outermost 0.5 % of the points may lie outside the frame. α* on a held-out batch, and on all samples, is drawn where
    the table has it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 8), layout="constrained")
        ((alpha, ratio), (curvature, loss)) = figure.subplots(2, 2, sharex=True)
        figure.suptitle(title, x=0.01, ha="left")

        window = _window(table)
        elsewhere = [median[median > 0].quantile([0.02, 0.98]) for _, median in _elsewhere(table, window).values()]
        rates = table.lr.min(), table.lr.max(), *pd.concat([*elsewhere, pd.Series(dtype=float)]).dropna()
        descent = (table.cosine == 1).all()  # plain SGD
        _series(
            alpha,
            table.step,
            table.alpha_lr,
            window,
            f"α* < 0 ({'curvature not positive' if descent else 'no minimum ahead'})",
            show=rates,
        )
        alpha.plot(table.step, table.lr, color=WARNING, lw=1.2, label="learning rate")
        _draw_elsewhere(alpha, table, window)
        alpha.set(title="Optimal step size α*", ylabel="α* (learning rate)")

        _series(ratio, table.step, 1 / table.alpha_steps, window, "lr/α* < 0", show=(1, 2))
        ratio.axhline(1, color=REFERENCE, lw=1.2, label="1: lands on the minimum")
        ratio.axhline(2, color=WARNING, lw=1.2, ls="--", label="2: no progress predicted")
        ratio.set(title="Learning rate over α*", ylabel="lr / α*")

        _series(curvature, table.step, table.directional_sharpness, window, "curvature ≤ 0")
        curvature.set(title="Directional sharpness dᵀHd / ‖d‖²", ylabel="curvature along the step", xlabel="step")

        _series(loss, table.step, table.loss, window, "loss ≤ 0")
        loss.set(title="Mini-batch loss before the step", ylabel="loss", xlabel="step")

        for axes in (alpha, ratio, curvature, loss):
            axes.grid(alpha=0.25)
            axes.legend(fontsize=8, framealpha=0.9)
        _save(figure, path)


def _elsewhere(table: pd.DataFrame, window: int) -> dict[str, tuple[Any, Any]]:
    """α* along the same directions on other samples, where the table has it: for each its values and running median."""
    found = {}
    for name, column in (("a held-out batch", "held_out_alpha_lr"), ("all samples", "full_alpha_lr")):
        values = table.get(column, pd.Series(dtype=float))
        measured = values.where(np.isfinite(values)).dropna()
        if len(measured):
            over = max(round(window * len(measured) / len(table)), min(7, len(measured)))
            found[name] = measured, measured.rolling(over, center=True, min_periods=over // 2 + 1).median().dropna()
    return found


def _draw_elsewhere(axes: Axes, table: pd.DataFrame, window: int, *, color: str = "") -> None:
    """In colors of their own with a legend, or in the color of their optimizer without one."""
    for name, (values, median) in _elsewhere(table, window).items():
        look: Any = {"color": color or ELSEWHERE[name], "lw": 1.4, "ls": LINES[name]}
        outside = int((values <= 0).sum())
        label = f"on {name}, median" + (f" (α* ≤ 0: {outside} of {len(values)})" if outside else "")
        if name == "all samples":
            axes.plot(table.step[values.index], values.where(values > 0), ".", color=look["color"], ms=3, alpha=0.6)
        axes.plot(table.step[median.index], median.where(median > 0), **look, label="_" if color else label)


def draw_comparison(table: pd.DataFrame, path: Path, *, title: str) -> None:
    """α*, lr/α* and loss of several optimizers side by side: each one's running median and middle half."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(15, 5.4), layout="constrained")
        panels = figure.subplots(1, 3, sharex=True)
        figure.suptitle(title, x=0.01, ha="left")
        ranges: list[list[Any]] = [[], [], []]
        for k, (label, rows) in enumerate(table.groupby("optimizer", sort=False)):
            window = _window(rows)
            negative = (rows.alpha_steps <= 0).mean()
            name = f"{label}" + (f" (α* ≤ 0 in {negative:.1%} of steps)" if negative else "")
            for axes, values, shown in zip(
                panels, (rows.alpha_lr, 1 / rows.alpha_steps, rows.loss), ranges, strict=True
            ):
                finite = values.where(np.isfinite(values))
                rolling = finite.rolling(window, center=True, min_periods=window // 2 + 1)
                low, middle, high = (q.where(q > 0) for q in map(rolling.quantile, (0.25, 0.5, 0.75)))
                axes.fill_between(rows.step, low, high, color=f"C{k}", alpha=0.15, lw=0)
                axes.plot(rows.step, middle, color=f"C{k}", lw=1.6, label=name)
                shown += [low, middle, high]
            _draw_elsewhere(panels[0], rows, window, color=f"C{k}")
            ranges[0] += [median[median > 0] for _, median in _elsewhere(rows, window).values()]
        ratio = panels[1]
        marks = [
            ratio.axhline(1, color=REFERENCE, lw=1.2, label="1: lands on the minimum"),
            ratio.axhline(2, color=WARNING, lw=1.2, ls="--", label="2: no progress predicted"),
        ]
        ratio.legend(handles=marks, fontsize=8, framealpha=0.9)
        drawn = [Line2D([], [], color=REFERENCE, ls=LINES[name], label=f"on {name}") for name in _elsewhere(table, 1)]
        if drawn:
            panels[0].legend(handles=drawn, fontsize=8, framealpha=0.9)
        panels[0].set(title="Optimal learning rate α*", ylabel="α* (learning rate)")
        ratio.set(title="Learning rate over α*", ylabel="lr / α*")
        panels[2].set(title="Mini-batch loss before the step", ylabel="loss")
        for axes, shown, show in zip(panels, ranges, ((), (1, 2), ()), strict=True):
            axes.set(yscale="log", xlabel="step")
            values = pd.concat(shown).dropna()
            if len(values):
                _frame_log(axes, values, show)
            axes.grid(alpha=0.25)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
        _save(figure, path)


def draw_lines(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """For each line the true loss h(α) against its quadratic q(α), with α* and the learning rate marked.

    Several optimizers have a row of panels each.
    """
    with mpl.rc_context(STYLE):
        labels = list(dict.fromkeys(line.optimizer for line in lines))
        lines = [line for label in labels for line in lines if line.optimizer == label]
        columns = min(3, len(lines)) if len(labels) == 1 else -(-len(lines) // len(labels))
        rows = -(-len(lines) // columns)
        figure = Figure(figsize=(max(4.2 * columns, 6), 3.4 * rows + 0.8), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for axes, line in zip(panels, lines, strict=False):
            _draw_line(axes, line, f"{line.optimizer}\n" if len(labels) > 1 else "")
        for axes in panels:  # what zip left over
            axes.remove()
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        _save(figure, path)


def _draw_line(axes: Axes, line: Line, name: str) -> None:
    alphas, losses = line.alphas.numpy(), line.losses.numpy()
    quadratic = line.quadratic(line.alphas).numpy()
    alpha = line.quadratic.alpha.item()
    axes.plot(alphas, losses, color=TREND, lw=2.2, label="loss h(α)")
    axes.plot(alphas, quadratic, color=WARNING, lw=1.3, ls="--", label="quadratic q(α)")
    axes.axvline(0, color=REFERENCE, lw=0.6)
    # Both markers on every panel, so that one legend serves all; what is out of range stays out of sight.
    axes.plot([alpha], [line.quadratic.minimum.item()], "o", color=WARNING, ms=7, label="α*")
    axes.plot([line.lr], [np.interp(line.lr, alphas, losses)], "^", color=REFERENCE, ms=7, label="learning rate")
    off_scale = "" if alphas[0] <= line.lr <= alphas[-1] else " (off scale)"
    axes.set(
        title=f"{name}step {line.step}: α* = {alpha:.3g}, lr = {line.lr:.3g}{off_scale}",
        xlim=(alphas[0], alphas[-1]),
        xlabel="α (learning rate)",
        ylabel="mini-batch loss",
    )
    axes.title.set_fontsize(9)
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylim(*_frame(losses, quadratic))
    axes.grid(alpha=0.25)


def _frame(losses: Any, quadratic: Any) -> tuple[float, float]:
    """Limits that show both curves; where one towers over the other it leaves the frame."""
    curves = [curve[np.isfinite(curve)] for curve in (losses, quadratic)]
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return 0.0, 1.0
    low, high = min(curve.min() for curve in curves), max(curve.max() for curve in curves)
    top = min(high, low + 4 * min(max(np.ptp(curve), curve.max() - low) for curve in curves))
    margin = 0.06 * (top - low) or 0.06 * abs(top) or 1.0
    return low - margin, top + margin


def _series(
    axes: Axes, steps: Any, values: Any, window: int, non_positive_label: str, *, show: Sequence[float] = ()
) -> None:
    """Points and their running median on a log scale, non-positive ones marked at the bottom edge.

    The frame holds 99 % of the points and the values to ``show``.
    """
    positive = values.where((values > 0) & np.isfinite(values))
    axes.plot(steps, positive, ".", color=POINT, ms=3, rasterized=True)
    axes.set_yscale("log")
    if positive.notna().any():
        median = values.rolling(window, center=True, min_periods=window // 2 + 1).median()
        axes.plot(steps, median.where(median > 0), color=TREND, lw=1.6, label=f"running median ({window} steps)")
        _frame_log(axes, positive, show)
    non_positive = values[values <= 0]
    if len(non_positive):
        share = f"{non_positive_label}: {len(non_positive)} of {len(values)} steps"
        bottom = np.full(len(non_positive), 0.015)
        axes.plot(
            steps[non_positive.index], bottom, "|", color=WARNING, ms=8,
            transform=axes.get_xaxis_transform(), label=share,
        )  # fmt: skip


def _window(table: pd.DataFrame) -> int:
    """The steps of a running median: an epoch, or more."""
    return max(len(table) // 50, min(table.batch.nunique(), len(table) // 5), 1)


def _frame_log(axes: Axes, positive: Any, show: Sequence[float]) -> None:
    low, high = np.nanquantile(positive, [0.005, 0.995])
    low, high = min(low, *show, high) / 1.6, max(high, *show, low) * 1.6
    axes.set_ylim(low, high)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(plain if high / low < 1e3 else NullFormatter())


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)
