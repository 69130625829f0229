"""Write docs/models.md: which models work, captured and under each eager strategy, and why others are refused.

python tests/models_table.py
"""

import re
import warnings
from pathlib import Path

from alpha_func import capture, quadratic_along
from alpha_func.errors import CaptureError, StrategyError
from alpha_func.transforms import STRATEGIES
from tests.helpers.models import HUGGING_FACE, LOSSES, MODELS, hugging_face, with_loss

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
OPENING = """# Which models work

Written by `python tests/models_table.py`; the tests check that every number behind a "yes" is exact to 1e-9 in float64.

- **yes**: exact.
- **refused**: this way is known to be wrong on the operator, and raises.
- **raises**: PyTorch has no such derivative of the operator; the error says what to use instead.

"""
NAMED = re.compile(r"(?:wrong through|cannot differentiate) ([\w., ]+?)(?:,? silently|:| twice)|(aten\.\w+)")


def verdict(case, strategy, loss, kwargs):
    try:
        quadratic_along(loss, strategy=strategy)(case.params, case.direction, *case.args, **kwargs)
    except (StrategyError, CaptureError) as error:
        found = NAMED.search(str(error))
        operator = next(filter(None, found.groups())) if found else ""
        kind = "refused" if "silently" in str(error) or isinstance(error, CaptureError) else "raises"
        return f"{kind}: `{operator.removeprefix('aten.')}`"
    except RuntimeError:
        return "raises"
    return "yes"


def rows(cases):
    ways = "captured (all strategies)", *STRATEGIES
    yield f"| | {' | '.join(ways)} |"
    yield "|---" * (len(ways) + 1) + "|"
    for name, case in cases:
        kwargs = {} if name not in HUGGING_FACE else case.args[0]
        case = case._replace(args=()) if kwargs else case
        captured = {verdict(case, strategy, capture(case.loss), kwargs) for strategy in STRATEGIES}
        eager = [verdict(case, strategy, case.loss, kwargs) for strategy in STRATEGIES]
        yield f"| {name} | {'; '.join(sorted(captured))} | {' | '.join(eager)} |"


def page():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {
            "Layers and networks": [(name, make()) for name, make in MODELS.items()],
            "Losses of torch.nn.functional, under a small net": [(name, with_loss(name)) for name in LOSSES],
            "Hugging Face transformers": [(name, hugging_face(name)) for name in HUGGING_FACE],
        }
        sections = [f"## {title}\n\n" + "\n".join(rows(cases)) for title, cases in parts.items()]
    return OPENING + "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
