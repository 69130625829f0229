"""A figure of ours: its looks whatever matplotlibrc says, text unchanged, and its file whole or not there."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from alpha_func.experiment.folder import written_whole
from alpha_func.experiment.series import Array

POINT, TREND, REFERENCE, WARNING = "#9db8d9", "#1f4e8c", "#444444", "#c8372d"
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "text.parse_math": False,  # a $ in a file's name is a dollar
    "svg.hashsalt": "alpha_func",  # the same picture is the same file
}


@contextmanager
def style() -> Iterator[None]:
    """The looks of our figures."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def titled(width: float, height: float, title: str) -> Figure:
    """A figure of so many inches, its title broken into lines that fit."""
    figure = Figure(figsize=(width, height), layout="constrained")
    lines = [piece for line in title.split("\n") for piece in textwrap.wrap(drawable(line), int(width * 12))]
    figure.suptitle("\n".join(lines[:6]), x=0.01, ha="left", fontsize=11)
    return figure


def drawable(text: str) -> str:
    r"""What matplotlib can draw of a user's text: no lone surrogates, no control characters.

    >>> drawable("a\udcffb\x07")
    'a?b?'
    """
    text = text.encode("utf-8", "replace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f" {text}" if text.startswith("_") else text  # matplotlib hides such labels


def save(figure: Figure, path: Path) -> None:
    """Write the picture in the format of its suffix."""
    FigureCanvasAgg(figure)
    kind = path.suffix[1:].lower()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font has not
        figure.savefig(content, dpi=120, format=kind, metadata=metadata)
    written_whole(path, lambda file: file.write(content.getvalue()))


def log_frame(axes: Axes, positive: Array, show: Sequence[float] = ()) -> None:
    """A log scale that holds 99 % of the values and those to ``show``, its numbers written plainly."""
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
    if not len(positive):
        axes.set_ylim(0.1, 10)
        return
    low, high = np.quantile(positive, (0.005, 0.995))
    show = [each for each in show if np.isfinite(each) and each > 0]
    low, high = max(min(low, *show, high) / 1.6, 1e-300), min(max(high, *show, low) * 1.6, 1e300)
    axes.set_ylim(low, high)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    if high / low < 1e3:
        axes.yaxis.set_minor_formatter(plain)


def linear_frame(axes: Axes, values: Array, show: Sequence[float]) -> None:
    """A linear scale that holds those to ``show`` and 98 % of the values, if they are from −2 to 4."""
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, (0.01, 0.99)) if len(finite) else (0.0, 1.0)
    low, high = min([max(low, -2.0), *show]), max([min(high, 4.0), *show])
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))


def legend(axes: Axes) -> None:
    """What is labelled, if anything is."""
    if axes.get_legend_handles_labels()[0]:
        many = (
            sum(np.size(line.get_xdata()) for line in axes.get_lines()) > 20_000
        )  # to find the best place takes seconds
        axes.legend(fontsize=8, framealpha=0.9, loc="upper right" if many else "best")
