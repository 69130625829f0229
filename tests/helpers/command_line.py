"""The command line in this process, and what all that it refuses has in common."""

import re

from alpha_func.experiment.cli import main


def alpha_func(*arguments):
    """The exit status of ``alpha-func`` with these arguments."""
    try:
        return main([*map(str, arguments)])
    except SystemExit as exit:  # argparse's way
        return exit.code


def observe(*arguments):
    """The exit status of ``alpha-func observe``."""
    return alpha_func("observe", *arguments)


def assert_refused(status, error, message, out):
    """Refused in one line that says why, and nothing was written."""
    assert status == 2
    assert error.count("\n") == 1, error
    assert re.search(message, error), f"{error!r} does not match {message!r}"
    assert not out.exists()
