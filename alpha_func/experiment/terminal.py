"""The terminal that a command prints to: the user's own text unchanged, and stderr where nobody reads stdout."""

import sys
from typing import TextIO

from rich.console import Console

from alpha_func.experiment.streams import forget_stdout


class Gone(KeyboardInterrupt):
    """Nobody reads stdout any more, or the disk behind it is full: as if the run was interrupted."""


class Terminal:
    """A console that the user's own text goes through unchanged; when stdout is gone, stderr takes its place."""

    def __init__(self, stream: TextIO | None = None):
        self.console = self._on(stream)
        self.gone = False

    def print(self, *what: object, wrap: bool = False) -> None:
        """Print text or tables.

        Raises:
            Gone: stdout was found to be closed; the next lines go to stderr.
        """
        try:
            self.console.print(*what, soft_wrap=not wrap)
            self.console.file.flush()
        except (OSError, SystemExit) as error:  # rich exits where a pipe is closed
            if self.gone:
                return
            self.gone = True
            forget_stdout()
            self.console = self._on(sys.stderr)
            raise Gone from error

    @staticmethod
    def _on(stream: TextIO | None) -> Console:
        return Console(file=stream, highlight=False, markup=False, emoji=False)
