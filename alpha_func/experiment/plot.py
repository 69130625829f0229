"""Pictures from files: of a run's folder, or of any file of records; the run may be finished, going on, or killed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from alpha_func.experiment import lines
from alpha_func.experiment.alpha_picture import draw_alpha
from alpha_func.experiment.folder import CONFIGURATION, FORMATS, LINES, STEPS
from alpha_func.experiment.lines_picture import draw_lines
from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.record_files import read_records
from alpha_func.experiment.rules import RULES
from alpha_func.experiment.settings import ACTIVATIONS, STDIN, Experiment

NAMES = {
    "sgd": "plain SGD",
    "momentum": "SGD with momentum",
    "nesterov": "Nesterov momentum",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "muon": "Muon",
}


def plot_records(
    records: str | Path | pd.DataFrame, picture: str | Path, *, title: str | None = None, ema: float | None = None
) -> None:
    """Draw α* and what tells how far to trust it from a file of records: those of an ``Observer``, or a steps.csv.

    Args:
        records: the path of a CSV or JSON lines file, or its table: columns of ``StepRecord``, and ``optimizer`` where
            it has several.
        picture: the file to write: .png, .svg or .pdf.
        title: of the picture; None: the file's name.
        ema: draw the exponential moving average of α* with this share of the last too.

    Raises:
        InputError: the file cannot be read, has no rows, or lacks columns of a record; or the picture's suffix is
            none of those.

    >>> import tempfile
    >>> table = pd.DataFrame({"step": range(9), "loss": 1.0, "alpha_steps": 2.0, "alpha_lr": 0.2, "lr": 0.1})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_records(table, Path(folder) / "alpha.svg")
    ...     [path.name for path in Path(folder).iterdir()]
    ['alpha.svg']
    """
    picture = Path(picture)
    if picture.suffix[1:].lower() not in FORMATS:
        raise InputError(f"picture {picture} has the suffix {picture.suffix!r}: give one of .{', .'.join(FORMATS)}")
    if ema is not None and not 0 <= ema < 1:
        raise InputError(f"ema is {ema:g}: give the share of the last average, from 0 to below 1, such as 0.9")
    table = records if isinstance(records, pd.DataFrame) else read_records(Path(records))
    if title is None:
        name = "Records" if isinstance(records, pd.DataFrame) else Path(records).name
        title = f"{name}: {len(table):,} records to step {int(table.step.max()):,}"
    draw_alpha(_complete(table), picture, title=title, ema=ema)


def plot_run(folder: Path, kind: str = "png", *, title: str | None = None, ema: float | None = None) -> Iterator[Path]:
    """Draw the pictures of a run's folder, giving each as it is there.

    Raises:
        InputError: the folder holds no run, or one without rows.
    """
    if not (folder / STEPS).is_file():
        raise InputError(f"{folder} holds no run ({STEPS} is not there): give the folder of one, or a file of records")
    experiment = _experiment(folder)
    if title is None:
        title = title_of(experiment) if experiment else f"{folder.name}"
    if ema is None and experiment:
        ema = experiment.ema
    picture = folder / f"alpha.{kind}"
    plot_records(folder / STEPS, picture, title=title, ema=ema)
    yield picture
    sampled = lines.read(folder / LINES)
    if sampled:
        picture = folder / f"lines.{kind}"
        steps = len({line.step for line in sampled})
        of = f"The loss along the step at {steps} steps" if steps > 1 else "The loss along a step"
        draw_lines(sampled, picture, title=f"{of}, and its quadratic\n{title}")
        yield picture


def title_of(experiment: Experiment) -> str:
    """What a run was, as one would say it.

    >>> print(title_of(Experiment(data="tables/wine.csv", optimizers=("sgd", "adam:lr=0.001"))))
    wine.csv under plain SGD and Adam (lr 0.001), learning rate 0.01
    5 hidden units with ReLU, batches of 32, 100 epochs
    """
    names = [_name(label) for label in experiment.optimizers]
    under = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    data = {STDIN: "Data from stdin", "normal": "Normal samples"}.get(experiment.data, Path(experiment.data).name)
    if data in ("diabetes", "digits"):
        data = data.capitalize()
    parts = [f"{data} under {under}"]
    if isinstance(experiment.lr, str):
        parts.append(_stepping(experiment.lr, experiment))
    elif not all("lr=" in label for label in experiment.optimizers):
        parts.append(f"learning rate {experiment.lr:g}")
    parts += [f"{name.replace('_', ' ')} {_value(value)}" for name, value in experiment.shared_options().items()]
    hidden = "-".join(map(str, experiment.hidden))
    units = f"{hidden} hidden units with {ACTIVATIONS[experiment.activation].__name__}" if hidden else "A linear model"
    size = "full batches" if experiment.full_batch else f"batches of {experiment.batch_size}"
    epochs = f"{experiment.epochs:,} epoch{'s' * (experiment.epochs != 1)}"
    return f"{', '.join(parts)}\n{units}, {size}, {epochs}"


def _name(label: str) -> str:
    kind, *options = label.split(":")
    told = ", ".join(option.replace("_", " ").replace("=", " ") for option in options)
    return NAMES.get(kind, kind) + (f" ({told})" if told else "")


def _stepping(name: str, experiment: Experiment) -> str:
    """What a step is, with the factor and the average that are not the rule's own."""
    rule, factor = RULES[name], experiment.factor
    averaged = f" with moving average {experiment.ema:g}" if rule.averages and experiment.ema is not None else ""
    times = "" if factor in (None, rule.factor) or not rule.factor else f" times {factor / rule.factor:.3g}"
    return f"stepping by {rule.description}{times}{averaged}"


def _value(value: object) -> str:
    return "/".join(f"{each:g}" for each in value) if isinstance(value, Sequence) else f"{value:g}"


def _experiment(folder: Path) -> Experiment | None:
    try:
        return Experiment.of(json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))["experiment"])
    except (OSError, ValueError, TypeError, KeyError):  # it may be another's, or gone
        return None


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """The table in the order of its steps, with NaN for columns that a picture asks for and a file need not have."""
    if not table.step.is_monotonic_increasing:
        table = table.sort_values("step", kind="stable")
    absent = {name: np.nan for name in ("alpha_lr", "lr") if name not in table}
    return table.assign(**absent).reset_index(drop=True)
