"""Write docs/models.md: which models work, captured and under each eager strategy, and why others are refused.

python -m tests.helpers.models_table
"""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpha_func import Quadratic, capture, hvp, quadratic_along
from alpha_func.errors import CaptureError, StrategyError
from alpha_func.transforms import STRATEGIES
from tests.helpers.cases import Case
from tests.helpers.exactness_table import called
from tests.helpers.models import HUGGING_FACE, LOSSES, MODELS, hugging_face, with_loss

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
OPENING = """# Which models work

Written by `python -m tests.helpers.models_table`. The tests check every cell, and that every number behind a "yes" is
exact to 1e-9 in float64; of a captured loss, the quadratic and `hvp` by all four strategies.

- **yes**: exact.
- **refused**: this way is known to be wrong on the operator, and raises.
- **raises**: PyTorch has no such derivative of the operator; the error says what to use instead.

"""
PARTS: dict[str, dict[str, Callable[[], Case]]] = {
    "Layers and networks": MODELS,
    "Losses of torch.nn.functional, under a small net": {n: lambda n=n: with_loss(n) for n in LOSSES},
    "Hugging Face transformers": {n: lambda n=n: hugging_face(n) for n in HUGGING_FACE},
}
WAYS = "captured", *STRATEGIES
NAMED = re.compile(r"(?:wrong through|cannot differentiate) ([\w., ]+?)(?:,? silently|:| twice)|(aten\.\w+)")


def uncaptured(case: Case, strategy: str) -> Quadratic:
    """The quadratic of the loss as it is, by a strategy."""
    case, kwargs = called(case)
    return quadratic_along(case.loss, strategy=strategy)(case.params, case.direction, *case.args, **kwargs)


def captured(case: Case) -> tuple[str, Quadratic | None, list[Any]]:
    """What the page says of the captured loss, its quadratic, and Hd by every strategy that gives it."""
    case, kwargs = called(case)
    loss, operands = capture(case.loss, strict=True), (case.params, case.direction, *case.args)
    word, quadratic = verdict(lambda: quadratic_along(loss)(*operands, **kwargs))
    if quadratic is None:
        return word, None, []
    products = {s: verdict(lambda s=s: hvp(loss, strategy=s)(*operands, **kwargs)) for s in STRATEGIES}
    but = [f"; `hvp` by {strategy} {word}" for strategy, (word, _) in products.items() if word != "yes"]
    return word + "".join(but), quadratic, [hd for word, hd in products.values() if word == "yes"]


def verdict(way: Callable[..., Any], *args: Any) -> tuple[str, Any]:
    """What the page says of a way, and what the way gives."""
    try:
        return "yes", way(*args)
    except (StrategyError, CaptureError) as error:
        found = NAMED.search(str(error))
        operator = next(filter(None, found.groups())) if found else ""
        kind = "refused" if "silently" in str(error) or isinstance(error, CaptureError) else "raises"
        return f"{kind}: `{operator.removeprefix('aten.')}`", None
    except RuntimeError:
        return "raises", None


def page() -> str:
    """The page as it should be."""
    head = f"| | {' | '.join(WAYS)} |\n" + "|---" * (len(WAYS) + 1) + "|"
    return OPENING + "\n".join(
        f"## {title}\n\n{head}\n" + "".join(_row(name, make()) for name, make in cases.items())
        for title, cases in PARTS.items()
    )


def _row(name: str, case: Case) -> str:
    cells = captured(case)[0], *(verdict(uncaptured, case, strategy)[0] for strategy in STRATEGIES)
    return f"| {name} | {' | '.join(cells)} |\n"


def said() -> dict[str, dict[str, str]]:
    """What the page says of each model, by way."""
    rows = [line[2:-2].split(" | ") for line in PAGE.read_text().splitlines() if re.match(r"\| [^|]", line)]
    return {name: dict(zip(WAYS, cells, strict=True)) for name, *cells in rows}


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PAGE.write_text(page())
