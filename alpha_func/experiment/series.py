"""Long series for a picture: what a million steps show at the size of a panel, in a fraction of a second."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDE, HIGH = 900, 600  # cells of a panel in which one point is drawn
WINDOWS = 800  # running quantiles at so many places


def running(steps: Array, values: Array, window: int, quantiles: Sequence[float] = (0.5,)) -> tuple[Array, Array]:
    """Quantiles over full windows of so many values, each at the window's middle.

    What is not finite is passed over; where that is more than half of a window, there is NaN.

    Returns:
        The steps of the middles, and for each quantile its values there.

    >>> at, (median,) = running(np.arange(5.0), np.array([1.0, 9.0, 2.0, 3.0, np.nan]), 3)
    >>> at.tolist(), median.tolist()
    ([1.0, 2.0, 3.0], [2.0, 3.0, 2.5])
    """
    full = len(values) - window + 1
    if full < 1:
        return np.empty(0), np.empty((len(quantiles), 0))
    begins = np.unique(np.linspace(0, full - 1, min(full, WINDOWS)).round().astype(int))
    found = np.full((len(begins), len(quantiles)), np.nan)
    for k, begin in enumerate(begins):
        piece = values[begin : begin + window]
        piece = piece[np.isfinite(piece)]
        if 2 * len(piece) >= window:
            found[k] = np.quantile(piece, quantiles)
    return steps[begins + window // 2], found.T


def thinned(steps: Array, values: Array, *, log: bool) -> Any:
    """Which points to draw: one of those that fall into one cell of the panel.

    >>> int(thinned(np.arange(10.0) / 1e9, np.ones(10), log=True).sum())
    10
    >>> int(thinned(np.arange(1e5), np.ones(100000), log=True).sum()) == WIDE + 1
    True
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        heights = np.log(values) if log else values
    shown = np.isfinite(heights)
    if shown.sum() <= WIDE:
        return shown
    low, high = np.quantile(heights[shown], (0.005, 0.995))  # as the frame has it
    column = _cells(steps[shown], steps[shown].min(), steps[shown].max(), WIDE)
    row = _cells(np.clip(heights[shown], low - (high - low), high + (high - low)), low, high, HIGH)
    _, first = np.unique(column * (10 * HIGH) + row, return_index=True)
    kept = np.zeros(len(values), dtype=bool)
    kept[np.flatnonzero(shown)[first]] = True
    return kept


def _cells(values: Array, low: float, high: float, cells: int) -> Any:
    return np.round((values - low) / (high - low or 1.0) * cells).astype(np.int64)
