"""Packages that alpha_func can do without."""

import importlib
from types import ModuleType


def required(module: str, extra: str) -> ModuleType:
    """The module, or an error that names the extra that brings it.

    >>> required("no_such_package", "wandb")
    Traceback (most recent call last):
    ImportError: no_such_package is not installed: pip install 'alpha-func[wandb]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is not installed: pip install 'alpha-func[{extra}]'") from error
