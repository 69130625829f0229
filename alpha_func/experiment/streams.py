"""stdout and stderr as they are: of any encoding, and closed at any moment (``| head``)."""

import codecs
import os
import sys
from contextlib import suppress

_PLAIN = {
    "α": "alpha",
    "θ": "theta",
    "≤": "<=",
    "≥": ">=",
    "·": "*",
    "ᵀ": "'",
    "½": "1/2",
    "−": "-",
    "…": "...",
}
_HANDLER = "alpha_func.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def speak_plainly() -> None:
    """Where a stream's encoding lacks a letter, such as α on cp1252 and ASCII, write it in letters that all have."""
    codecs.register_error(_HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def forget_stdout() -> None:
    """Let the interpreter's last flush find a stdout that takes everything."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flush() -> bool:
    """Write what stdout holds back; whether anybody took it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        forget_stdout()
        return False
    return True
