"""A whole run: train, record, keep what is needed to go on, and say what it came to."""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

import alpha_func
from alpha_func.errors import StrategyError
from alpha_func.experiment import lines, other_samples
from alpha_func.experiment.data import Data, load
from alpha_func.experiment.folder import CONFIGURATION, LINES, STATE, STEPS, new_run, old_run, written_whole
from alpha_func.experiment.interrupts import Interrupts
from alpha_func.experiment.minibatches import Minibatch, batches, steps_of
from alpha_func.experiment.optimizers import InputError
from alpha_func.experiment.rate import RunState
from alpha_func.experiment.record_files import read_records
from alpha_func.experiment.settings import Experiment, check_memory, network
from alpha_func.experiment.summary import Course, cost, course
from alpha_func.experiment.training import Observation, Training, plain_step_seconds, training_loss
from alpha_func.observer.line_file import LineFile
from alpha_func.observer.loggers import CSVLog

LIBRARIES = ("torch", "numpy", "pandas", "scikit-learn", "matplotlib")
KEPT_EVERY = 10.0  # seconds between two states on disk, and at least 20 times what it takes to write one
DIGITS = {"float32": 9, "bfloat16": 9, "float64": None}  # that tell a number of the dtype from every other


class Show(Protocol):
    """Who is told of a run; to raise KeyboardInterrupt ends it."""

    def start(self, planned: int, names: Sequence[str], notes: Sequence[str]) -> None:
        """Training begins."""

    def observed(self, observation: Observation) -> None:
        """A record is on disk."""


@dataclass
class Summary:
    """What a run came to.

    Attributes:
        planned: steps of the whole run that are to be recorded, of each optimizer.
        courses: one for each optimizer.
        interrupted: whether a signal ended it.
        failure: what else ended it before its time, in words.
    """

    planned: int
    courses: list[Course] = field(default_factory=list)
    interrupted: bool = False
    failure: str = ""

    @property
    def recorded(self) -> int:
        """Rows in steps.csv."""
        return sum(course.recorded for course in self.courses)


def run(
    experiment: Experiment, folder: Path, *, command: Sequence[str] = (), show: Show, interrupts: Interrupts
) -> Summary:
    """Run an experiment into a new folder: steps.csv, config.json, lines.jsonl, and state.pt until its end.

    Args:
        experiment: what to run.
        folder: where its files go; made, and refused if it holds a run already.
        command: the command line, kept in config.json.
        show: is told of it.
        interrupts: what may end it before its time.

    Raises:
        InputError: the data or the folder cannot be used; nothing was written.
    """
    prepared = _prepare(experiment)
    configuration = _configuration(experiment, command, prepared.data)
    with new_run(folder, json.dumps(configuration, indent=2) + "\n"):
        return _go_on(prepared, folder, {}, show, interrupts)


def resume(folder: Path, *, show: Show, interrupts: Interrupts) -> Summary:
    """Go on with a run that was interrupted or killed, as if it had not been; it ends with the same rows and numbers.

    Raises:
        InputError: there is no such run, it is finished, or its data is another; nothing was changed.
    """
    with old_run(folder) as text:
        try:
            configuration = json.loads(text)
            experiment, fingerprint = Experiment.of(configuration["experiment"]), configuration["data"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / CONFIGURATION} is not the configuration of a run: start a new one") from error
        prepared = _prepare(experiment)
        if prepared.data.fingerprint() != fingerprint:
            raise InputError(f"{experiment.data} is not the data that the run in {folder} began with: start a new one")
        return _go_on(prepared, folder, _read_state(folder, prepared), show, interrupts)


@dataclass
class _Prepared:
    experiment: Experiment
    data: Data
    module: nn.Module
    loss: Callable[..., Tensor]

    def planned(self) -> int:
        return len(range(0, steps_of(self.experiment, self.data), self.experiment.every))

    def trainings(self) -> list[Training]:
        return [
            Training(self.experiment, self.data, self.module, algorithm, self.loss)
            for algorithm in self.experiment.algorithms()
        ]


def _prepare(experiment: Experiment) -> _Prepared:
    data = load(experiment)
    other_samples.check_samples(experiment, data)
    check_memory(experiment, data.inputs.shape[1], data.outputs, len(data.inputs))
    module = network(experiment, data.inputs.shape[1], data.outputs)
    prepared = _Prepared(experiment, data, module, training_loss(experiment, data, module))
    first = next(batches(experiment, data))
    for training in prepared.trainings():  # so that what cannot run is known before anything is written
        try:
            training.step(first)
        except StrategyError as error:
            raise InputError(str(error)) from error
        except (RuntimeError, ValueError, ArithmeticError) as error:
            raise InputError(f"optimizer {training.algorithm.label!r} cannot take its first step: {error}") from error
    return prepared


def _go_on(prepared: _Prepared, folder: Path, state: RunState, show: Show, interrupts: Interrupts) -> Summary:
    experiment, data = prepared.experiment, prepared.data
    trainings = prepared.trainings()
    for training in trainings:
        if state:
            training.state = state["trainings"][training.algorithm.label]
    show.start(steps_of(experiment, data), [name for name, _ in prepared.module.named_parameters()], data.notes)
    summary = Summary(prepared.planned())
    seconds: dict[str, list[float]] = {label: [] for label in experiment.optimizers}
    with _Files(folder, state, DIGITS[experiment.dtype]) as files:
        try:
            for batch in batches(experiment, data, state.get("step", -1), state.get("rng")):
                found = [_timed(training, batch, seconds, experiment) for training in trainings]
                with interrupts.whole():
                    files.write([observation for observation in found if observation is not None])
                    files.at(batch, trainings)
                for observation in found:
                    if observation is not None:
                        show.observed(observation)
        except KeyboardInterrupt:
            summary.interrupted = True
        except (MemoryError, OSError, RuntimeError) as error:
            summary.failure = _in_words(error, folder)
        with interrupts.whole():
            files.end(finished=not (summary.interrupted or summary.failure))
    summary.failure = summary.failure or files.failure
    _tell(summary, prepared, folder, seconds)
    return summary


def _timed(
    training: Training, batch: Minibatch, seconds: dict[str, list[float]], experiment: Experiment
) -> Observation | None:
    started = time.thread_time()  # of the processor: a busy machine does not count
    observation = training.step(batch)
    more = experiment.full_data != 1 and experiment.measures_all(batch.step)
    if observation is not None and observation.line is None and not more:  # a recorded step as most of them are
        seconds[training.algorithm.label].append(time.thread_time() - started)
    return observation


class _Files:
    """steps.csv, lines.jsonl and, until the end of the run, state.pt."""

    def __init__(self, folder: Path, state: RunState, digits: int | None):
        self._folder, self.failure = folder, ""
        for name in (STEPS, LINES):  # what came after the state is done again
            size, path = state.get(name, 0), folder / name
            if path.exists():
                with path.open("r+b") as file:
                    file.truncate(size)
        self._steps = CSVLog(folder / STEPS, append=True, digits=digits)
        self._lines = LineFile(folder / LINES, append=True)
        self._state: RunState = dict(state)
        self._due = time.monotonic() + KEPT_EVERY

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *error: object) -> None:
        self._steps.close()
        self._lines.close()

    def write(self, observations: Sequence[Observation]) -> None:
        """The rows and lines of one step."""
        for record, line in observations:
            self._steps(record)
            if line is not None:
                self._lines.write(lines.as_json(line))

    def at(self, batch: Minibatch, trainings: Sequence[Training]) -> None:
        """All is written of this batch; now and then keep where that is."""
        self._state = {
            "step": batch.step,
            "rng": batch.rng,
            "trainings": {training.algorithm.label: training.state for training in trainings},
        }
        if time.monotonic() >= self._due:
            started = time.monotonic()
            self._keep()
            ended = time.monotonic()
            self._due = ended + max(KEPT_EVERY, 20 * (ended - started))

    def end(self, *, finished: bool) -> None:
        """Nothing more comes."""
        try:
            if finished:
                (self._folder / STATE).unlink(missing_ok=True)
            elif "trainings" in self._state:
                self._keep()
        except OSError as error:
            self.failure = _in_words(error, self._folder)

    def _keep(self) -> None:
        sizes = {name: (self._folder / name).stat().st_size for name in (STEPS, LINES)}
        written_whole(self._folder / STATE, lambda file: torch.save({**self._state, **sizes}, file))


def _read_state(folder: Path, prepared: _Prepared) -> dict[str, object]:
    path = folder / STATE
    if not path.exists():
        rows = prepared.planned() * len(prepared.experiment.optimizers)
        steps = folder / STEPS
        if steps.exists() and steps.read_bytes().count(b"\n") > rows:
            raise InputError(
                f"the run in {folder} is finished: there is nothing to resume; alpha-func plot draws its pictures again"
            )
        return {}  # killed before the first state: from the start
    try:
        state = torch.load(path, weights_only=True)
        sizes = {name: (folder / name).stat().st_size for name in (STEPS, LINES)}
        if any(sizes[name] < state[name] for name in sizes):
            raise ValueError("rows were removed")
        for training in prepared.trainings():
            training.state = state["trainings"][training.algorithm.label]
    except Exception as error:  # whatever a broken file makes torch.load raise
        raise InputError(f"{path} cannot be resumed ({error}): start a new run") from error
    return state


def _in_words(error: BaseException, folder: Path) -> str:
    if isinstance(error, OSError):
        return f"cannot write to {folder}: {error.strerror or error}"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _configuration(experiment: Experiment, command: Sequence[str], data: Data) -> dict[str, object]:
    return {
        "command": list(command),
        "experiment": experiment.settings(),
        "data": data.fingerprint(),
        "versions": {
            "python": platform.python_version(),
            "alpha-func": alpha_func.__version__,
            **{library: version(library) for library in LIBRARIES},
        },
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _tell(summary: Summary, prepared: _Prepared, folder: Path, seconds: Mapping[str, list[float]]) -> None:
    table = read_records(folder / STEPS, allow_empty=True)
    for algorithm in prepared.experiment.algorithms():
        label = algorithm.label
        rows = table[table.optimizer == label] if len(table) else table
        found = course(rows, label, prepared.experiment.ema) if len(rows) else Course(label)
        if found.recorded and not summary.failure:
            fresh = network(prepared.experiment, prepared.data.inputs.shape[1], prepared.data.outputs)
            found.cost = cost(seconds[label], plain_step_seconds(prepared.experiment, prepared.data, fresh, algorithm))
        summary.courses.append(found)
