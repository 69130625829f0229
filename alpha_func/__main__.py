"""``python -m alpha_func``: the command line."""

import sys

from alpha_func.experiment.cli import main

if __name__ == "__main__":
    sys.exit(main())
