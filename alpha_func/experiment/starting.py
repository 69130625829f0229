"""An interrupt while the command line imports PyTorch: one line in place of a traceback.

``alpha_func`` imports this first. In any other process than the command line it does nothing.
"""

import os
import signal
import sys
from pathlib import PurePath
from types import FrameType


def _is_command_line(words: list[str]) -> bool:
    """Whether a process was started by these words: ``alpha-func`` or ``python -m alpha_func``.

    >>> _is_command_line(["python", "/usr/bin/alpha-func", "observe"]), _is_command_line(["python", "train.py"])
    (True, False)
    >>> _is_command_line(["python", "-m", "alpha_func", "--help"]), _is_command_line(["python", "-m", "pytest"])
    (True, False)
    """
    script = next((word for word in words[1:] if not word.startswith("-")), "")
    if "-m" in words[1:]:
        return script == "alpha_func" and words[words.index("-m") + 1] == script
    return PurePath(script).name.removesuffix(".exe") in ("alpha-func", "alpha-func-script.py")


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"alpha-func: interrupted while it started; nothing was written\n")
    os._exit(130)


if _is_command_line(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
