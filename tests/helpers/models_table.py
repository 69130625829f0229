"""Write docs/models.md: which models work, captured and as they are, and why others are refused.

python -m tests.helpers.models_table [NAME ...]   (each in a process with a time limit; rows that are there are kept)

Without names, the rows that the page lacks; delete the page to have all of them anew.
"""

import argparse
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alpha_func import Quadratic, capture, hvp, quadratic_along
from alpha_func.errors import CaptureError, StrategyError
from alpha_func.transforms import STRATEGIES
from tests.helpers import architectures
from tests.helpers.cases import Case
from tests.helpers.models import LOSSES, MODELS, with_loss
from tests.models.table import ARCHITECTURES
from tests.verification import processes

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
OPENING = """# Which models work

Written by `python -m tests.helpers.models_table`. The tests check every cell.

- **yes**: exact.
- **refused**: not differentiated, or known to be wrong; the error names what stands here, and the remedy.
- **raises**: PyTorch has no such derivative of the operator; the error says what to use instead.
- **yes, by double backward**: the program has no sweep for the operator that stands here; its double backward is used.

## Architectures

Tiny random nets, a batch as a training loop has it; a verdict holds for the call that is named. Truth is double
backward of the module called directly. Value, slope and curvature of `quadratic_along` in a random direction, and of
`grad_and_quadratic` with its gradient, are exact to 1e-9 in float64, and to 1e-4 in float32, measured by the size of
the terms that cancel. `captured` is `capture(loss, strict=True)`, as it is the loss uncaptured by the default strategy.

"""
LAYERS_OPENING = """## Layers and losses by strategy

Every number behind a "yes" is exact to 1e-9 in float64; of a captured loss, the quadratic and `hvp` by all four
strategies.

"""
PARTS: dict[str, dict[str, Callable[[], Case]]] = {
    "Layers and networks": MODELS,
    "Losses of torch.nn.functional, under a small net": {n: lambda n=n: with_loss(n) for n in LOSSES},
}
WAYS = "captured", *STRATEGIES
OUTDATED = "the page says otherwise: run python -m tests.helpers.models_table"
FIELDS = list(dict.fromkeys(each.field for each in ARCHITECTURES.values()))
NAMED = re.compile(r"(?:wrong through|cannot differentiate) ([\w., ]+?)(?:,? silently|:| twice)|(aten\.\w+)")
Rows = dict[str, list[str]]


def uncaptured(case: Case, strategy: str) -> Quadratic:
    """The quadratic of the loss as it is, by a strategy."""
    return quadratic_along(case.loss, strategy=strategy)(case.params, case.direction, *case.args)


def captured(case: Case) -> tuple[str, Quadratic | None, list[Any]]:
    """What the page says of the captured loss, its quadratic, and Hd by every strategy that gives it."""
    loss, operands = capture(case.loss, strict=True), (case.params, case.direction, *case.args)
    word, quadratic = verdict(lambda: quadratic_along(loss)(*operands))
    if quadratic is None:
        return word, None, []
    products = {s: verdict(lambda s=s: hvp(loss, strategy=s)(*operands)) for s in STRATEGIES}
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


def cells_of(name: str) -> list[str]:
    """The cells of a row, made."""
    if name in ARCHITECTURES:
        return [ARCHITECTURES[name].call, *architectures.examine(name).values()]
    case = next(cases[name] for cases in PARTS.values() if name in cases)()
    return [captured(case)[0], *(verdict(uncaptured, case, strategy)[0] for strategy in STRATEGIES)]


def page(rows: Rows) -> str:
    """The page that says these rows."""

    def part(title: str, columns: tuple[str, ...], names: list[str]) -> str:
        head = f"### {title}\n\n| | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|\n"
        return head + "".join(f"| {name} | {' | '.join(rows[name])} |\n" for name in names if name in rows)

    tried = [rows[name][1] for name in ARCHITECTURES if name in rows]
    slower = sum(cell.startswith("yes,") for cell in tried)
    count = f"{len(tried)} architectures: {tried.count('yes')} exact captured, {slower} by double backward.\n\n"
    fields = [
        part(field, ("call", *architectures.WAYS), [name for name, a in ARCHITECTURES.items() if a.field == field])
        for field in FIELDS
    ]
    return "\n".join([OPENING + count + fields[0], *fields[1:], LAYERS_OPENING]) + "\n".join(
        part(title, WAYS, list(cases)) for title, cases in PARTS.items()
    )


def said() -> Rows:
    """What the page says of each model: its cells."""
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    return {name: cells for name, *cells in (line[2:-2].split(" | ") for line in lines if re.match(r"\| [^|]", line))}


def main() -> None:
    """Make rows, writing the page after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=int, default=300, help="seconds of a row")
    parser.add_argument("--jobs", type=Path, help="of a child")
    parser.add_argument("--lines", type=Path, help="of a child")
    options = parser.parse_args()
    if options.jobs:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        jobs = options.jobs.read_text().splitlines()
        processes.work(jobs, options.lines, lambda name: {"cells": cells_of(name)}, options.limit)
        return
    rows, begun = said(), time.monotonic()
    every = [*ARCHITECTURES, *(name for cases in PARTS.values() for name in cases)]
    wanted = options.names or [name for name in every if name not in rows]

    def heard(line: processes.Line) -> None:
        cells = line.get("cells") or ["CRASHED, or took too long"]
        print(f"{time.monotonic() - begun:6.0f} s  {line['job']}: {' | '.join(cells)}", flush=True)
        if "cells" in line:
            rows[line["job"]] = cells
            PAGE.write_text(page(rows))

    command = "tests.helpers.models_table", "--limit", str(options.limit)
    processes.run(command, wanted, heard, workers=options.workers)
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
