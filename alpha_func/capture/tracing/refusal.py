"""Why a loss cannot be captured: the operator or line, and what to do instead."""

import re
import traceback
from collections.abc import Callable
from functools import partial

from torch import fx

from alpha_func.errors import CaptureError
from alpha_func.torch_private import any_autocast_enabled
from alpha_func.transforms.remedies import first_that_runs
from alpha_func.transforms.strategies import DEFAULT_STRATEGY, STRATEGIES
from alpha_func.whereabouts import innermost

EAGER = "use the uncaptured loss"  # as a remedy, until it has been tried


def tried(message: str, uncaptured: Callable[[str], object]) -> str:
    """A refusal whose remedy has been tried on the very loss.

    Args:
        message: the refusal.
        uncaptured: runs the uncaptured loss by a strategy.
    """
    if EAGER not in message:
        return message
    names = sorted(STRATEGIES, key=lambda name: name != DEFAULT_STRATEGY)
    works = first_that_runs(
        (EAGER if name == DEFAULT_STRATEGY else f"{EAGER} with strategy={name!r}", partial(uncaptured, name))
        for name in names
    )
    return message.replace(EAGER, f"{works}, which runs" if works else _NOTHING)


def without_remedy(message: str) -> str:
    """A refusal where there is no uncaptured loss: its parameters are sharded."""
    return message.replace(EAGER, _OF_SHARDS)


def refuse_autocast() -> None:
    """Refuse a call under autocast."""
    if any_autocast_enabled():
        raise CaptureError(
            "a captured loss was called under autocast, whose casts would become part of the program: call it outside "
            "of autocast, with parameters and batch in the dtype to compute in"
        )


def line_of(node: fx.Node) -> str:
    """`` at file.py:12, `source line```: where the loss calls what this node of its recording stands for."""
    found = re.findall(r'File "(.*)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    return innermost(traceback.FrameSummary(file, int(line), "", line=source) for file, line, source in found)


def not_recorded(error: Exception) -> str:
    """What TorchDynamo says of a loss that it cannot record, in a line."""
    text = str(error)
    what = text.partition("\n")[0].rstrip(".")
    explained = re.search(r"Explanation: (.*)", text)
    why = explained[1] if explained else ""
    if "data-dependent expression" in text:
        what, why = "Data-dependent shape or loop", "it depends on parameters or on draws"
    line = innermost(getattr(error, "real_stack", None) or ())
    if "leaf Variable that requires grad" in text:
        return f"the loss changes an argument in place{line}: it is not a pure function; change a clone"
    if re.search("sparse", what + why, re.IGNORECASE):
        return f"the loss computes with a sparse tensor{line}, which a program does not hold: make it dense, or {EAGER}"
    return f"the loss cannot be traced{line}: {what}{why and f' ({why})'}; {EAGER}"


_OF_SHARDS = "write it in simpler operators: of sharded parameters only a captured loss is measured"
_NOTHING = "write it in simpler operators; the uncaptured loss does not run under any strategy either"
