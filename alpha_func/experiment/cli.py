"""The command line: ``alpha-func observe``, ``resume`` and ``plot``."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alpha_func.experiment import options, streams
from alpha_func.experiment.folder import STATE, STEPS
from alpha_func.experiment.interrupts import Interrupts
from alpha_func.experiment.optimizers import InputError

if TYPE_CHECKING:  # they import what may not be installed
    from alpha_func.experiment.run import Summary
    from alpha_func.experiment.terminal import Terminal

EXTRAS = ("matplotlib", "pandas", "rich", "sklearn")
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 for a full disk, 2 for bad input, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    streams.speak_plainly()
    command = "alpha-func"
    try:
        with Interrupts() as interrupts:
            given = options.parsed(arguments)
            command = f"alpha-func {given.command}"
            missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
            if missing:
                return _say(
                    command, f"{', '.join(missing)} is not installed: pip install 'alpha-func[observe]'", BAD_INPUT
                )
            from alpha_func.experiment.terminal import Terminal

            out = Terminal()
            if given.command == "plot":
                return _plot(given, out)
            return _train(given, ["alpha-func", *arguments], out, interrupts)
    except InputError as error:
        return _say(command, str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _say(command, "interrupted before the first step; nothing recorded", INTERRUPTED)
    except MemoryError:
        return _say(command, "out of memory: give smaller layers, a smaller --batch-size, or less data", FAILED)
    finally:
        streams.flush()


def _say(command: str, message: str, status: int) -> int:
    print(f"{command}: {' '.join(message.split())}", file=sys.stderr)
    return status


def _train(given: argparse.Namespace, command: list[str], out: "Terminal", interrupts: Interrupts) -> int:
    from alpha_func.experiment.display import Display
    from alpha_func.experiment.run import resume, run

    folder = given.folder if given.command == "resume" else options.folder(given)
    display = Display(out, verbose=given.verbose)
    try:
        with display:
            if given.command == "resume":
                summary = resume(folder, show=display, interrupts=interrupts)
            else:
                experiment = options.experiment(given)
                summary = run(experiment, folder, command=command, show=display, interrupts=interrupts)
        return _finish(given, folder, summary, out)
    except KeyboardInterrupt:
        if not display.began:
            raise
        rows = max((folder / STEPS).read_bytes().count(b"\n") - 1, 0) if (folder / STEPS).exists() else 0
        remedy = (
            f"alpha-func plot {folder} draws "
            "them" + f", alpha-func resume {folder} continues it" * (folder / STATE).exists()
        )
        return _say(f"alpha-func {given.command}", f"interrupted: {rows} rows are in {folder}; {remedy}", INTERRUPTED)


def _finish(given: argparse.Namespace, folder: Path, summary: "Summary", out: "Terminal") -> int:
    """Show what the run came to and draw it; an interrupt ends this at once, and says what is there."""
    from alpha_func.experiment.display import show_summary
    from alpha_func.experiment.plot import plot_run

    status = FAILED if summary.failure else INTERRUPTED if summary.interrupted else 0
    command = f"alpha-func {given.command}"
    if summary.failure:
        _say(command, f"{summary.failure}; the {summary.recorded} rows recorded so far are kept", FAILED)
    try:
        show_summary(out, summary)
        out.print(f"wrote {folder}")
        if summary.recorded and not given.no_pictures:
            for picture in plot_run(folder, given.format):
                out.print(f"wrote {picture}")
        if status:
            out.print(f"to continue: alpha-func resume {folder}")
    except (InputError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        later = f"{summary.recorded} rows are in {folder}; alpha-func plot {folder} draws them later"
        return _say(command, f"cannot draw the pictures: {why}; {later}", FAILED)
    return status


def _plot(given: argparse.Namespace, out: "Terminal") -> int:
    from alpha_func.experiment.plot import plot_records, plot_run

    path: Path = given.path
    try:
        if path.is_dir() and given.out is None:
            for picture in plot_run(path, given.format, title=given.title, ema=given.ema):
                out.print(f"wrote {picture}")
            return 0
        picture = given.out or path.with_name(f"{path.stem}.{given.format}")
        plot_records(path / "steps.csv" if path.is_dir() else path, picture, title=given.title, ema=given.ema)
        out.print(f"wrote {picture}")
    except KeyboardInterrupt:
        return _say(
            "alpha-func plot",
            "interrupted: the pictures reported above are complete, the others unchanged",
            INTERRUPTED,
        )
    except OSError as error:
        return _say(
            "alpha-func plot", f"cannot write the picture: {error.strerror or error}: choose another --out", FAILED
        )
    return 0
