"""What becomes of an error within an observer: training never ends by one after it began well."""

import logging
from collections.abc import Callable

from alpha_func.errors import CaptureError, ObserverError, StrategyError

logger = logging.getLogger("alpha_func")


class Failures:
    """Raises at the first step, while nothing is lost, what can be mended; says the rest, each kind once.

    Args:
        start: the number of the first step.
        together: whether several ranks measure together. What fails on one of them before they meet is held until
            they do: the others would wait for it.
    """

    def __init__(self, start: int, *, together: bool):
        self._start, self._together = start, together
        self._held: Exception | None = None
        self._logged: set[object] = set()

    def before_measuring(self, step: int, error: Exception) -> None:
        """An error on the way to a measurement."""
        if self._together:
            self._held = self._held or error
        else:
            self.happened(step, error)

    def raise_held(self) -> None:
        """Raise what is held."""
        held, self._held = self._held, None
        if held is not None:
            raise held

    def happened(self, step: int, error: Exception) -> None:
        """An error that nobody waits for."""
        mendable = isinstance(error, ObserverError | StrategyError | CaptureError | ValueError)
        if step == self._start and mendable:
            raise error
        if type(error) not in self._logged:
            self._logged.add(type(error))
            logger.warning(
                "step %d was not measured, and training continues: %s: %s", step, type(error).__name__, error
            )

    def guarded(self, log: object, call: Callable[..., object], *args: object) -> None:
        """Call what belongs to a logger."""
        try:
            call(*args)
        except Exception as error:
            if id(log) not in self._logged:
                self._logged.add(id(log))
                name = getattr(log, "__qualname__", type(log).__qualname__)
                logger.warning("logger %s failed, and training continues: %s: %s", name, type(error).__name__, error)
