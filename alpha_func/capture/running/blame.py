"""Which pass, law or rule is to blame for a scheme that is not the loss's: what makes it right when it is left out.

Every pass, law and rule of a sweep can be left out: a pass and a law only make a program faster, and an operator
without a rule is differentiated by PyTorch's own derivative of it. The suspects are halved until one is left.
"""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, TypeVar

from torch import fx

from alpha_func.capture.builder.builder import Law
from alpha_func.capture.builder.values import Operator
from alpha_func.capture.derivatives.rule import RULES, without_rules
from alpha_func.capture.rewrites import CHANNELS_LAST, FUSED, LAWS, rewrite
from alpha_func.capture.rewrites.normalisation import BATCH, LAYER
from alpha_func.capture.running.reusing import reuse

T = TypeVar("T")
Program = fx.GraphModule


def culprit(
    write: Callable[[], Program], operators: set[Operator], backend: str, is_right: Callable[[Program, Program], bool]
) -> str:
    """The name of the cause.

    Args:
        write: writes the scheme anew, by the rules and laws that are there.
        operators: those of the program that it is made of.
        backend: what runs it.
        is_right: whether a run of a scheme, and the same as written, give the loss's numbers.
    """

    def right_without(
        laws: Sequence[Law], operators: Sequence[Operator], finish: Callable[[Program], Program] = _as_is
    ) -> bool:
        with LAWS.without(laws), without_rules(operators):
            try:
                program = write()
                return is_right(finish(program), program)
            except Exception:
                return False

    if right_without([], []):
        steps: dict[str, Callable[[Program], Program]] = {
            "the layout of tensors": lambda program: rewrite(program, CHANNELS_LAST),
            "fusing": lambda program: rewrite(program, CHANNELS_LAST, FUSED),
            "reuse of memory": lambda program: reuse(rewrite(program, CHANNELS_LAST, FUSED)),
        }
        wrong = (name for name, finish in steps.items() if not right_without([], [], finish))
        return next(wrong, f"backend {backend!r}")
    laws = LAWS.seen()
    if right_without(laws, []):
        return "the rewrite law " + _names(_one_of(laws, lambda some: right_without(some, [])))
    ruled = [operator for operator in operators if operator in RULES]
    # PyTorch's own derivatives of whole normalisations are wrong when they are differentiated again.
    for suspects in ([o for o in ruled if o not in (LAYER, BATCH)], [LAYER], [BATCH]):
        if right_without([], suspects):
            return "the derivative rule of " + _names(_one_of(suspects, lambda some: right_without([], some)))
    return "the sweep"


def _one_of(suspects: list[T], right_without: Callable[[Sequence[T]], bool]) -> list[T]:
    """The one, or the fewest that halving finds, without which all is right."""
    while len(suspects) > 1:
        middle = len(suspects) // 2
        half = next((h for h in (suspects[:middle], suspects[middle:]) if right_without(h)), None)
        if half is None:
            break
        suspects = half
    return suspects


def _names(suspects: Sequence[Any]) -> str:
    names = [getattr(s, "__name__", "") if isinstance(s, FunctionType) else str(s) for s in suspects]
    return ", ".join(name.strip("_") for name in names[:3]) + (" or another" if len(names) > 3 else "")


def _as_is(program: Program) -> Program:
    return program
