"""The folder of a run: one run's at a time, and its files whole at every moment."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from alpha_func.experiment.optimizers import InputError

STEPS, CONFIGURATION, LINES, STATE = "steps.csv", "config.json", "lines.jsonl", "state.pt"
PICTURES, FORMATS = ("alpha", "lines"), ("png", "svg", "pdf")
_FAR_BEHIND = 1 << 40  # Windows lets nobody read a byte that is locked: lock one that is not there


@contextmanager
def new_run(folder: Path, configuration: str) -> Iterator[None]:
    """Take a folder for a run that begins, and write its configuration.

    Raises:
        InputError: it holds a run already, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = (f"{name}.{kind}" for name in PICTURES for kind in FORMATS)
        for name in (STEPS, CONFIGURATION, LINES, STATE, *pictures):
            if (folder / name).exists():
                raise _occupied(folder, name)
        file = (folder / CONFIGURATION).open("xb")
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():  # of two that begin at once, one makes the file
            raise _occupied(folder, CONFIGURATION) from error
        raise InputError(f"cannot write to {folder} ({error.strerror}): choose another --out") from error
    with file:
        _lock(file, folder)
        file.write(configuration.encode())
        file.flush()
        yield


@contextmanager
def old_run(folder: Path) -> Iterator[str]:
    """Take a folder for a run that goes on; gives its configuration.

    Raises:
        InputError: it holds none, or another process is at it.
    """
    try:
        file = (folder / CONFIGURATION).open("r+b")
    except OSError as error:
        raise InputError(f"{folder} holds no run to resume: {CONFIGURATION}: {error.strerror}") from error
    with file:
        _lock(file, folder)
        yield file.read().decode("utf-8", "replace")


def _occupied(folder: Path, name: str) -> InputError:
    return InputError(
        f"{folder} already holds a run ({name}): choose another --out, or remove that folder; alpha-func resume "
        "continues one that was interrupted"
    )


def _lock(file: BinaryIO, folder: Path) -> None:
    """Until the file is closed, by whatever end of the process."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_FAR_BEHIND)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise InputError(
            f"another process is writing to {folder}: wait until it ends, or choose another folder"
        ) from error
    except OSError:  # a file system without locks
        return


def written_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place and move it there: it is the old one or the new one, and never half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
