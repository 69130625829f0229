"""A text file that grows by whole lines, whatever ends the process or fills the disk."""

import os
import stat
from pathlib import Path

from alpha_func.errors import warn


class LineFile:
    """Each line is on disk when ``write`` returns: one system call, so that a kill cannot cut it in two.

    Args:
        path: of the file; its folder is made.
        append: go on with a file that exists instead of refusing it. What a machine that went down left of a last line
            is removed, with a warning: it would become one with the next.

    Raises:
        FileExistsError: the file exists, and ``append`` is not set.
    """

    def __init__(self, path: str | Path, *, append: bool = False):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = path.open("a+b" if append else "x+b", buffering=0)
        except FileExistsError:
            raise FileExistsError(
                f"{path} exists: choose another path, or pass append=True to continue the file"
            ) from None
        self._is_kept = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)  # not a pipe, not a device
        if append and self._is_kept:
            end, size = self._end_of_lines(), self._file.seek(0, os.SEEK_END)
            if end < size:
                warn(f"{path} ended with an incomplete line of {size - end} bytes, which was removed")
                self._file.truncate(end)

    def write(self, line: str) -> None:
        """Append a line, newline included; where it does not fit, nothing of it is left.

        Raises:
            OSError: the disk is full, or gone.
        """
        data = line.encode()
        try:
            written = self._file.write(data)
            while written < len(data):  # the next attempt says why
                written += self._file.write(data[written:])
        except OSError:
            if self._is_kept:
                self._file.truncate(self._end_of_lines())
            raise

    def first_line(self) -> str:
        """The line that the file begins with; "" if it is empty."""
        if not self._is_kept:
            return ""
        self._file.seek(0)
        with open(self._file.fileno(), newline="", encoding="utf-8", closefd=False) as text:
            return text.readline()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _end_of_lines(self, block: int = 1 << 16) -> int:
        """Where the last whole line ends."""
        end = self._file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(end - block, 0)
            self._file.seek(begin)
            found = self._file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
        return 0
