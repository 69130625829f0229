"""Why a loss cannot be captured: the operator or line, and what to do instead."""

import re
import traceback

from torch import fx

from alpha_func.whereabouts import innermost

EAGER = "use the uncaptured loss with an eager strategy (alpha_func.STRATEGIES)"


def line_of(node: fx.Node) -> str:
    """`` at file.py:12, `source line```: where the loss calls what this node of its recording stands for."""
    found = re.findall(r'File "(.*)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    return innermost(traceback.FrameSummary(file, int(line), "", line=source) for file, line, source in found)


def not_recorded(error: Exception) -> str:
    """What TorchDynamo says of a loss that it cannot record, in a line."""
    text = str(error)
    what = text.partition("\n")[0].rstrip(".")
    why = re.search(r"Explanation: (.*)", text)
    line = innermost(getattr(error, "real_stack", None) or ())
    if "leaf Variable that requires grad" in text:
        return f"the loss changes an argument in place{line}: it is not a pure function; change a clone"
    return f"the loss cannot be traced{line}: {what}{f' ({why[1]})' if why else ''}; {EAGER}"
