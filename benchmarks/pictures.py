"""The pictures of the report: the times of all ways on all models, and the scaling curves."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.findings import Findings
from benchmarks.models import MODELS
from benchmarks.ways import UNIT, WAYS

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
NO_ANSWER, WRONG = "#dddddd", "#c8372d"
LINES = {  # the ways of the curves: one colour a family, ours in full
    "jvp(grad)": ("#7f7f7f", "--", "s"),
    "double backward": ("#7f7f7f", "-", "o"),
    "jvp(jvp)": ("#7f7f7f", ":", "^"),
    "quadratic_along captured": ("#1f4e8c", "-", "o"),
    "grad_and_quadratic captured": ("#c8372d", "-", "o"),
    "JAX gradient": ("#c9a227", ":", "x"),
    "JAX jvp(grad)": ("#c9a227", "--", "s"),
    "JAX jet": ("#c9a227", "-", "o"),
}


def draw_times(found: Findings, path: Path) -> None:
    """Ratios to one eager gradient, ways down, models across, on a log scale; grey where there is no answer."""
    ways = [way for way in found.ways if way != UNIT]
    ratios = np.array([[found.ratio(model, way) or np.nan for model in found.models] for way in ways], dtype=float)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.2 + 1.05 * len(found.models), 1.4 + 0.34 * len(ways)), layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor(NO_ANSWER)
        image = axes.imshow(ratios, cmap="YlGnBu", norm=LogNorm(0.5, 16), aspect="auto")
        for i, way in enumerate(ways):
            for j, model in enumerate(found.models):
                _write_cell(axes, found, ratios[i, j], i, j, model, way)
        axes.set_xticks(range(len(found.models)), [m.replace("+", "\n+") for m in found.models])
        axes.set_yticks(range(len(ways)), ways)
        axes.tick_params(length=0)
        axes.set_title("Time in eager gradients of the same batch (red: the answer is wrong)")
        bar = figure.colorbar(image, ax=axes, shrink=0.6, ticks=[0.5, 1, 2, 4, 8, 16])
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        _save(figure, path)


def _write_cell(axes: Axes, found: Findings, ratio: float, i: int, j: int, model: str, way: str) -> None:
    wrong = found.mark(model, way)
    if np.isnan(ratio):
        text, colour = found.outcome(model, way) or "·", "#666666"
    else:
        text, colour = f"{ratio:.3g}" if ratio >= 10 else f"{ratio:.2f}", "white" if ratio > 5 else "black"
    weight = "bold" if wrong else "normal"
    axes.text(j, i, text, ha="center", va="center", fontsize=8, color=WRONG if wrong else colour, weight=weight)


def draw_curves(found: Findings, path: Path) -> None:
    """Time and peak memory in eager gradients, against depth, width and batch."""
    curves = list(dict.fromkeys(MODELS[name].curve for name in found.curve_models))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1 + 3.6 * len(curves), 7), layout="constrained")
        panels = figure.subplots(2, len(curves), squeeze=False, sharex="col", sharey="row")
        for column, curve in enumerate(curves):
            names = [name for name in found.curve_models if MODELS[name].curve == curve]
            sizes = [MODELS[name].size for name in names]
            for row, (number, what) in enumerate(((found.ratio, "time"), (found.memory_ratio, "peak memory"))):
                axes = panels[row, column]
                for way, (colour, style, marker) in LINES.items():
                    values = [number(name, way) or np.nan for name in names]
                    if way in WAYS and not all(np.isnan(values)):
                        axes.plot(sizes, values, style, color=colour, marker=marker, ms=4, label=way)
                axes.axhline(1, color="#444444", lw=0.8)
                axes.set(xscale="log", yscale="log")
                _plain(axes, sizes)
                axes.grid(alpha=0.25)
                if column == 0:
                    axes.set_ylabel(f"{what} / eager gradient's")
                if row == 1:
                    axes.set_xlabel(curve)
        shown: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                shown.setdefault(label, handle)
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle("Tanh MLPs of 6 layers of 256, batch 128, one of them varied", x=0.01, ha="left")
        _save(figure, path)


def _plain(axes: Axes, sizes: list[int]) -> None:
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)
