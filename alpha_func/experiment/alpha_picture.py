"""The picture of a run: α* and what tells how far to trust it, step by step."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from alpha_func.experiment.figures import (
    POINT,
    REFERENCE,
    TREND,
    WARNING,
    drawable,
    legend,
    linear_frame,
    log_frame,
    save,
    style,
    titled,
)
from alpha_func.experiment.series import Array, running, thinned
from alpha_func.experiment.summary import moving_average

AVERAGE = "#7b3294"
ELSEWHERE = {"a held-out batch": ("held_out", "#2a8c5a", "--"), "all samples": ("full", "#d98200", "-.")}
# Told apart by those who do not see colors too, after Okabe and Ito (2008), and by their dashes.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))


class Panel(NamedTuple):
    """What a panel shows: a column made of the table, on which scale, with which marks."""

    title: str
    label: str
    values: Callable[[pd.DataFrame], Any]
    log: bool = True
    marks: tuple[tuple[float, str, str, str], ...] = ()  # height, color, dashes, meaning
    below: str = ""  # what has no place on a log scale


def draw_alpha(table: pd.DataFrame, path: Path, *, title: str, ema: float | None = None) -> None:
    """α*, lr/α*, gain ratio, loss, sharpness, and the step's angle or length.

    One optimizer has its points and their running median; several have each a running median and its middle half. A
    step that has no place on a log scale is marked at the bottom edge, and the outermost 0.5 % of the points may lie
    outside the frame. α* on a held-out batch, and on all samples, is drawn where the table has it.
    """
    by_optimizer = dict(list(table.groupby("optimizer", sort=False))) if "optimizer" in table else {"": table}
    with style():
        figure = titled(15, 8, title)
        panels = _panels(table)
        axes = list(figure.subplots(2, 3, sharex=True).flat)
        for one, panel in zip(axes, panels, strict=False):
            if len(by_optimizer) == 1:
                _draw_one(one, table, panel)
            else:
                _draw_several(one, by_optimizer, panel)
            for height, color, dashes, meaning in panel.marks:
                one.axhline(height, color=color, lw=1.2, ls=dashes, label=meaning, zorder=2.4)
            one.set(title=panel.title, ylabel=panel.label)
            one.grid(alpha=0.25)
        if len(by_optimizer) == 1:
            _add_to_alpha(axes[0], table, ema)
        else:
            for k, rows in enumerate(by_optimizer.values()):
                _add_other_samples(axes[0], rows, color=COLORS[k % len(COLORS)])
        _mark_divergence(axes, by_optimizer)
        for one in axes[3:]:
            one.set_xlabel("step")
            one.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.10g}"))
            one.locator_params(axis="x", nbins=6)
        for one in axes:
            legend(one)
        if len(by_optimizer) > 1:
            handles, labels = _legend(axes[0], by_optimizer)
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
        save(figure, path)


def _panels(table: pd.DataFrame) -> list[Panel]:
    in_lr = "alpha_lr" in table and np.isfinite(table.alpha_lr).any()
    alpha = Panel(
        "Optimal step size α*",
        "α* (learning rate)" if in_lr else "α* (steps of the optimizer)",
        lambda rows: rows.alpha_lr if in_lr else rows.alpha_steps,
        below="α* ≤ 0",
    )
    ratio = Panel(
        "Learning rate over α*",
        "lr / α*",
        lambda rows: 1 / rows.alpha_steps.where(rows.alpha_steps != 0),
        marks=((1.0, REFERENCE, "-", "1: lands on the minimum"), (2.0, WARNING, "--", "2: no progress predicted")),
        below="lr/α* < 0",
    )
    gain = Panel(
        "Gain over what the quadratic promised",
        "gain ratio",
        lambda rows: rows.gain_ratio,
        log=False,
        marks=((1.0, REFERENCE, "-", "1: the quadratic holds"), (0.0, WARNING, "--", "0: below it the loss rose")),
    )
    loss = Panel("Mini-batch loss before the step", "loss", lambda rows: rows.loss, below="loss ≤ 0")
    sharpness = Panel(
        "Curvature along the step dᵀHd / ‖d‖²",
        "directional sharpness",
        lambda rows: rows.directional_sharpness,
        below="curvature ≤ 0",
    )
    turns = "cosine" in table and not (table.cosine.dropna() == 1).all()
    last = (
        Panel(
            "Cosine between the step and −g",
            "cosine",
            lambda rows: rows.cosine,
            log=False,
            marks=((1.0, REFERENCE, "-", ""),),
        )
        if turns
        else Panel("Length of the step ‖d‖", "‖d‖", lambda rows: rows.step_norm, below="length 0")
    )
    return [alpha, ratio, gain, loss, sharpness, last]


def _values(rows: pd.DataFrame, panel: Panel) -> Array:
    try:
        return panel.values(rows).to_numpy(dtype=np.float64)
    except AttributeError:  # a file without this column
        return np.full(len(rows), np.nan)


def _draw_one(axes: Axes, table: pd.DataFrame, panel: Panel) -> None:
    steps, values = table.step.to_numpy(dtype=np.float64), _values(table, panel)
    drawn = thinned(steps, values, log=panel.log)
    size = 3 if drawn.sum() < 20_000 else 1
    axes.plot(steps[drawn], values[drawn], ".", color=POINT, ms=size, rasterized=True, zorder=2)
    window = _window(table)
    at, (median,) = running(steps, values, window)
    if panel.log:
        median = np.where(median > 0, median, np.nan)
    if np.isfinite(median).any():
        axes.plot(at, median, color=TREND, lw=1.6, label=f"running median of {window:,} records", zorder=3)
    _frame(axes, panel, values)
    below = values <= 0
    if panel.log and below.any():
        kept = np.flatnonzero(below)[:: max(below.sum() // 2000, 1)]
        axes.plot(
            steps[kept], np.full(len(kept), 0.015), "|", color=WARNING, ms=8, rasterized=True,
            transform=axes.get_xaxis_transform(), label=f"{panel.below}: {below.sum():,} of {len(values):,} steps",
        )  # fmt: skip


def _draw_several(axes: Axes, by_optimizer: dict[str, pd.DataFrame], panel: Panel) -> None:
    shown = []
    for k, rows in enumerate(by_optimizer.values()):
        steps, values = rows.step.to_numpy(dtype=np.float64), _values(rows, panel)
        at, bands = running(steps, values, _window(rows), (0.25, 0.5, 0.75))
        low, median, high = np.where(bands > 0, bands, np.nan) if panel.log else bands
        color, dashes = COLORS[k % len(COLORS)], DASHES[k % len(DASHES)]
        axes.fill_between(at, low, high, color=color, alpha=0.12, lw=0, zorder=1)
        axes.plot(at, median, color=color, ls=dashes, lw=1.8, zorder=3)
        shown.append(np.concatenate([low, median, high]))
    _frame(axes, panel, np.concatenate(shown))


def _frame(axes: Axes, panel: Panel, values: Array) -> None:
    heights = [mark[0] for mark in panel.marks]
    if panel.log:
        log_frame(axes, values[np.isfinite(values) & (values > 0)], heights)
    else:
        linear_frame(axes, values, heights)


def _add_to_alpha(axes: Axes, table: pd.DataFrame, ema: float | None) -> None:
    """The learning rate behind the points, α* on other samples before them."""
    if axes.get_ylabel().endswith("(learning rate)"):
        lr, alpha = table.lr.to_numpy(), table.alpha_lr.to_numpy()
        followed = np.isclose(lr, alpha, rtol=1e-4)
        if followed.mean() < 0.5:
            at = np.unique(np.linspace(0, len(lr) - 1, 4000).round().astype(int))
            restless = len(np.unique(lr[at])) > len(at) // 2  # as α* itself: behind the points
            axes.plot(
                table.step.to_numpy()[at], lr[at], color=WARNING, lw=1.0, label="learning rate",
                zorder=1.2 if restless else 2.4,
            )  # fmt: skip
            low, high = axes.get_ylim()
            usual = [each for each in np.quantile(lr[np.isfinite(lr)], (0.02, 0.98)) if each > 0]
            axes.set_ylim(min(low, *(each / 1.6 for each in usual)), max(high, *(each * 1.6 for each in usual)))
        else:
            axes.plot([], [], " ", label="the learning rate is α*")
    else:
        axes.axhline(1, color=WARNING, lw=1.0, label="1: the step as it was", zorder=2.4)
    _add_other_samples(axes, table)
    _add_average(axes, table, ema)
    if "agrees" in table:
        wrong = table[table.agrees.astype(str).str.lower() == "false"]
        if len(wrong):
            label = f"measured another loss than was trained: {len(wrong):,} of {len(table):,} steps"
            axes.plot(wrong.step, wrong.alpha_lr, "x", color=WARNING, ms=4, label=label, rasterized=True, zorder=4)


def _add_other_samples(axes: Axes, table: pd.DataFrame, color: str = "") -> None:
    """α* along the same steps on other samples, in colors of their own, or in that of their optimizer."""
    for name, (where, own, dashes) in ELSEWHERE.items():
        values = table.get(f"{where}_alpha_lr", pd.Series(dtype=np.float64)).astype(np.float64)
        values = values[np.isfinite(values)]
        if values.empty:
            continue
        steps = table.step[values.index].to_numpy(dtype=np.float64)
        window = max(round(_window(table) * len(values) / len(table)), min(7, len(values)))
        at, (median,) = running(steps, values.to_numpy(), window)
        outside = int((values <= 0).sum())
        label = f"on {name}, median" + (f" (α* ≤ 0: {outside:,} of {len(values):,})" if outside else "")
        median = np.where(median > 0, median, np.nan)
        axes.plot(
            at, median, color=color or own, lw=0.9 if color else 1.4, ls=dashes, label="_" if color else label, zorder=3
        )
        seen = median[np.isfinite(median)]
        if len(seen):
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, seen.min() / 1.3), max(high, seen.max() * 1.3))


def _add_average(axes: Axes, table: pd.DataFrame, ema: float | None) -> None:
    if ema is None or "alpha_lr" not in table:
        return
    alpha = table.alpha_lr.where(np.isfinite(table.alpha_lr))
    values = moving_average(alpha, ema).to_numpy()
    at = np.unique(np.linspace(0, len(values) - 1, 4000).round().astype(int))
    shown = np.where(values > 0, values, np.nan)[at]
    axes.plot(table.step.to_numpy()[at], shown, color=AVERAGE, lw=1.0, label=f"moving average ({ema:g})", zorder=2.5)


def _mark_divergence(axes: Sequence[Axes], by_optimizer: dict[str, pd.DataFrame]) -> None:
    for k, (name, rows) in enumerate(by_optimizer.items()):
        lost = ~np.isfinite(rows.loss.to_numpy())
        if lost.any():
            step = int(rows.step.to_numpy()[lost.argmax()])
            several = len(by_optimizer) > 1
            label = f"{drawable(str(name))} diverged at step {step:,}" if several else f"diverged at step {step:,}"
            axes[3].axvline(step, color=COLORS[k % len(COLORS)] if several else WARNING, lw=1.2, ls=":", label=label)


def _legend(axes: Axes, by_optimizer: dict[str, pd.DataFrame]) -> tuple[list[Any], list[str]]:
    """The optimizers by color and dashes, and what thin lines of other samples mean."""
    handles, labels = [], []
    for k, (name, rows) in enumerate(by_optimizer.items()):
        handles += axes.plot([], [], color=COLORS[k % len(COLORS)], ls=DASHES[k % len(DASHES)], lw=1.8, label="_")
        negative = float((rows.alpha_steps <= 0).mean())
        labels.append(drawable(str(name)) + (f" (α* ≤ 0 in {negative:.1%} of steps)" if negative else ""))
    for name, (where, _, dashes) in ELSEWHERE.items():
        if any(np.isfinite(rows.get(f"{where}_alpha_lr", pd.Series([np.nan]))).any() for rows in by_optimizer.values()):
            handles += axes.plot([], [], color=REFERENCE, ls=dashes, lw=0.9, label="_")
            labels.append(f"α* on {name}")
    return handles, labels


def _window(table: pd.DataFrame) -> int:
    """The steps of a running median: an epoch, or more."""
    epoch = table.batch.nunique() if "batch" in table else 25
    return max(len(table) // 50, min(epoch, len(table) // 5), 1)
