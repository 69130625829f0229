"""What a run came to, read from its table."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

LEAST_TIMED = 20  # steps, for a ratio of times


@dataclass
class Course:
    """What a run came to with one optimizer; medians and shares are over the recorded steps that are finite.

    Attributes:
        optimizer: its label.             recorded: its rows in steps.csv.
        diverged: the first step whose loss is not finite; None if there is none.
        finite: rows whose loss, slope and curvature are finite.
        alpha: median α*, a learning rate.
        held_out_alpha, full_alpha: that of the next mini-batch, and of all samples, where they were measured.
        average: the exponential moving average of α* after the last of them, where it was asked for.
        non_positive: share of steps with curvature ≤ 0.
        beyond_edge: share of steps with lr/α* > 2.
        loss: median loss of the last epoch that was recorded.
        cost: median processor time of a recorded step over one of plain training; NaN where it was not to be had.
    """

    optimizer: str
    recorded: int = 0
    diverged: int | None = None
    finite: int = 0
    alpha: float = math.nan
    held_out_alpha: float = math.nan
    full_alpha: float = math.nan
    average: float = math.nan
    non_positive: float = math.nan
    beyond_edge: float = math.nan
    loss: float = math.nan
    cost: float = math.nan


def course(rows: pd.DataFrame, label: str, ema: float | None) -> Course:
    """Of the rows of one optimizer.

    >>> nan = math.nan
    >>> rows = {"step": [0, 1], "epoch": 0, "loss": [2, nan], "slope": [-1, nan], "curvature": [4, nan]}
    >>> found = course(pd.DataFrame(rows | {"alpha_steps": [0.25, nan], "alpha_lr": [0.5, nan]}), "sgd", None)
    >>> found.diverged, found.finite, found.alpha, found.beyond_edge
    (1, 1, 0.5, 1.0)
    """
    numbers = rows[["loss", "slope", "curvature"]].to_numpy(dtype=np.float64)
    finite = np.isfinite(numbers).all(axis=1)
    lost = ~np.isfinite(numbers[:, 0])
    kept = rows[finite]
    alpha = _finite(kept.alpha_lr)
    steps = kept.alpha_steps
    return Course(
        label,
        recorded=len(rows),
        diverged=int(rows.step.to_numpy()[lost.argmax()]) if lost.any() else None,
        finite=len(kept),
        alpha=float(alpha.median()),
        held_out_alpha=float(_finite(rows.get("held_out_alpha_lr")).median()),
        full_alpha=float(_finite(rows.get("full_alpha_lr")).median()),
        average=math.nan if ema is None or alpha.empty else float(moving_average(alpha, ema).iloc[-1]),
        non_positive=float((kept.curvature <= 0).mean()),
        beyond_edge=float(((steps > 0) & (steps < 0.5)).mean()) if len(kept) else math.nan,
        loss=float(_finite(kept.loss[kept.epoch == rows.epoch.max()]).median()),
    )


def moving_average(values: pd.Series, beta: float) -> pd.Series:
    """The exponential moving average with the share ``beta`` of the last, its start unbiased; NaN are passed over."""
    return values.ewm(alpha=1 - beta, adjust=True, ignore_na=True).mean()


def cost(observed: list[float], plain: list[float]) -> float:
    """The ratio of the medians of two lists of processor times; NaN where they are few, or the clock is too coarse."""
    if min(len(observed), len(plain)) < LEAST_TIMED:
        return math.nan
    usual = float(np.median(plain))
    return float(np.median(observed)) / usual if usual > 0 else math.nan


def _finite(values: Any) -> pd.Series:
    values = pd.Series(dtype=np.float64) if values is None else values.astype(np.float64)
    return values[np.isfinite(values)]
