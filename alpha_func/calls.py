"""Names for what a function is called with, where Python's types cannot say more."""

from collections.abc import Callable
from typing import Any

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Function = Callable[..., Any]
