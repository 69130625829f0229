"""The picture of lines: the true loss along the step beside its quadratic, at a handful of steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from alpha_func.experiment.figures import REFERENCE, TREND, WARNING, drawable, save, style, titled
from alpha_func.experiment.training import Line


def draw_lines(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """For each line the true loss h(α) against its quadratic q(α), with α* and the learning rate marked.

    Several optimizers have a row of panels each.
    """
    with style():
        labels = list(dict.fromkeys(line.optimizer for line in lines))
        lines = [line for label in labels for line in lines if line.optimizer == label]
        columns = min(3, len(lines)) if len(labels) == 1 else -(-len(lines) // len(labels))
        rows = -(-len(lines) // columns)
        figure = titled(max(4.2 * columns, 6), 3.4 * rows + 0.8, title)
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for axes, line in zip(panels, lines, strict=False):
            _draw_line(axes, line, f"{drawable(line.optimizer)}\n" if len(labels) > 1 else "")
        for axes in panels:  # what zip left over
            axes.remove()
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        save(figure, path)


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
    told = f"α* = {alpha:.3g}, lr = {line.lr:.3g}{off_scale}" if np.isfinite(alpha) else f"no α*, lr = {line.lr:.3g}"
    if not np.isfinite(losses).any():
        told = "the loss is not finite"
    axes.set(
        title=f"{name}step {line.step:,}: {told}",
        xlim=(alphas[0], alphas[-1]) if np.isfinite(alphas).all() and alphas[0] < alphas[-1] else (-1, 1),
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
