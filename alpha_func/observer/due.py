"""Which steps are measured: every so many, or those that a function of the step says."""

from collections.abc import Callable

from alpha_func.observer.failures import Failures


class Due:
    """Whether a step is to be measured; a function of the caller's is asked once a step.

    Args:
        every: of ``Observer``.
        failures: told where that function fails.
        otherwise: whether the step is measured where it fails.
    """

    def __init__(self, every: int | Callable[[int], bool], failures: Failures, *, otherwise: bool):
        self._is_due, self._failures, self._otherwise = schedule(every), failures, otherwise
        self._last = (-1, False)

    def __call__(self, step: int) -> bool:
        if self._last[0] != step:
            try:
                self._last = step, bool(self._is_due(step))
            except Exception as error:
                self._last = step, self._otherwise
                self._failures.before_measuring(step, error)
        return self._last[1]


def schedule(every: object) -> Callable[[int], bool]:
    """``every`` as a function of the step.

    >>> [step for step in range(9) if schedule(4)(step)]
    [0, 4, 8]
    """
    if isinstance(every, int) and not isinstance(every, bool) and every > 0:
        return lambda step: step % every == 0
    if callable(every):
        return every
    raise ValueError(
        "every must be a positive number of steps, or a function of the step that says whether to measure it, got "
        f"{every!r}"
    )
