"""REPORT.md from the CSV files of a run: every number in it is formatted here, none is typed."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.findings import Findings
from benchmarks.models import DEPTHS, MODELS
from benchmarks.pictures import draw_curves, draw_times
from benchmarks.results import Results
from benchmarks.trials import POINTS, TOLERANCE
from benchmarks.ways import UNIT, WAYS

Table = list[list[str]]


def write_report(results: Results, path: Path) -> None:
    """The report and its pictures."""
    found = Findings(results)
    parts = [introduction(found), recommendation(found)]
    pictures = results.folder.name
    if found.timings:
        draw_times(found, results.folder / "times.png")
        parts.append(
            f"## Time\n\nIn units of one eager gradient of the same batch; median of the rounds and half the distance "
            f"of the quartiles. Only the answers marked WRONG are not −dᵀg/dᵀHd.\n\n![Times]({pictures}/times.png)\n\n"
            + table("way", found.models, found.ways, found.time)
        )
    parts.append(memory(found))
    parts.append(errors(found))
    if found.alphas:
        parts.append(alphas(found))
    if found.curve_models:
        draw_curves(found, results.folder / "curves.png")
        parts.append(curves(found, pictures))
    parts += [beyond(results.folder / "beyond.csv"), first_calls(found), failures(found), method(found)]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


def introduction(found: Findings) -> str:
    """What, where, and the models and ways."""
    machine, settings = found.run["machine"], found.run["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    size = "the small models of the quick setting: read its outcomes, not its times" if settings["small"] else "full"
    where = machine["device"] if settings["device"] != "cpu" else f"{machine['processor']}, {machine['cores']} cores"
    lines = [
        "# Which way to dᵀHd",
        "Written by `python -m benchmarks`; `--report-only` writes it again from the CSV files beside the pictures.",
        f"{where}, {machine['system']}, Python {machine['python']}, {versions}. Timed in {settings['dtype']} with "
        f"{settings['threads']} threads, at most {settings['rounds']} rounds; sizes: {size}. "
        f"{found.run.get('seconds', 0) / 60:.0f} minutes.",
        rows(["model", ""], [[name, MODELS[name].description] for name in found.models]),
        rows(["way", ""], [[name, WAYS[name].about] for name in found.ways]),
    ]
    return "\n\n".join(lines)


def recommendation(found: Findings) -> str:
    """The fastest exact ways of each model, and the one that holds the least."""
    head = ["model", "along a given d", "the same, compiled", "gradient, d = −g and α* at once", "least memory"]
    body = []
    for model in found.models:
        cells = [model]
        for choice in (
            lambda w: not (w.descends or w.slow or w.module == "jax"),
            lambda w: not w.descends and (w.slow or w.module == "jax"),
            lambda w: w.descends,
        ):
            best = found.fastest(model, choice)
            cells.append(f"{best} ({found.ratio(model, best):.2f})" if best else "none")
        least = found.leanest(model, lambda w: w.module != "jax")
        cells.append(f"{least} ({found.memory_ratio(model, least):.2f})" if least else "none")
        body.append(cells)
    return (
        "## Which one should I use?\n\nThe fastest way that is exact in every dtype it was tried in, with its time, "
        "and the way that holds the least memory, with its peak; both in units of one eager gradient.\n\n"
        + rows(head, body)
    )


def memory(found: Findings) -> str:
    """Peaks."""
    return (
        "## Peak memory\n\nWhat a call adds at most to what was live before it (parameters, direction and batch were), "
        "in units of the gradient's; the row of the gradient in MiB.\n\n"
        + table("way", found.models, found.ways, found.memory)
    )


def errors(found: Findings) -> str:
    """Errors and outcomes."""
    parts = [
        "## Right or wrong\n\nThe relative error of the curvature, the largest of "
        f"{POINTS} batches, against double backward in float64 of the module called directly. WRONG: an error of slope "
        f"or curvature above {TOLERANCE['float64']:g} of ‖d‖‖g‖ or ‖d‖‖Hd‖ in float64, "
        f"{TOLERANCE['float32']:g} in float32."
    ]
    ways = [way for way in found.ways if not WAYS[way].gradient]
    for dtype in ("float64", "float32"):
        parts.append(f"### {dtype}\n\n" + table("way", found.models, ways, found.error(dtype)))
    return "\n\n".join(parts)


def alphas(found: Findings) -> str:
    """Against dense."""
    body = []
    for way in dict.fromkeys(row.way for row in found.alphas):
        cells = [way]
        for dtype in ("float64", "float32"):
            row = next(row for row in found.alphas if (row.way, row.dtype) == (way, dtype))
            cells += [f"{row.largest:.1e}", f"{row.median:.1e}"] if row.largest is not None else ["raises", ""]
        body.append(cells)
    count = max(row.points or 0 for row in found.alphas)
    return (
        f"## α* against the dense Hessian\n\nThe 10-5-1 net at {count} points of training runs of plain SGD, a new one "
        "every 100 steps, each point with a batch of its own; d = −g. Relative error of α* against −dᵀg/dᵀHd with H "
        "formed in float64.\n\n" + rows(["way", "float64, largest", "median", "float32, largest", "median"], body)
    )


def curves(found: Findings, pictures: str) -> str:
    """Scaling, and the memory of depth."""
    parts = [
        "## Against depth, width and batch\n\nTanh MLPs. Time and memory in units of the same net's eager gradient.",
        f"![Curves]({pictures}/curves.png)",
    ]
    shallow, deep = "depth 6", "depth 48"
    if DEPTHS and {shallow, deep} <= set(found.curve_models):
        body = []
        for way in (way for way in found.ways if WAYS[way].curve):
            low, high = found.peak(shallow, way), found.peak(deep, way)
            if low and high:
                own = found.peak(deep, "JAX gradient" if WAYS[way].module == "jax" else UNIT)
                mebibytes = f"{low / 2**20:.2f}", f"{high / 2**20:.2f}"
                body.append([way, *mebibytes, f"{high / low:.2f}", f"{high / own:.3f}" if own else ""])
        parts.append(
            "Peak memory of 48 layers against 6, in MiB; last, that of 48 layers in units of its own framework's "
            f"gradient (eager for PyTorch, compiled for JAX). {found.parameter_note(deep)}\n\n"
            + rows(["way", "6 layers", "48 layers", "48 / 6", "of the gradient"], body)
        )
    return "\n\n".join(parts)


def beyond(measured: Path) -> str:
    """What more than a quadratic costs, where ``benchmarks.costs.beyond`` has written it."""
    if not measured.exists():
        return ""
    with measured.open(newline="") as file:
        lines = list(csv.DictReader(file))
    cells = {(line["net"], line["verb"]): line for line in lines}

    def cell(net: str, verb: str) -> str:
        line = cells.get((net, verb))
        if line is None:
            return ""
        products = f"; {line['products']} products" if line["products"] else ""
        return f"{line['median']} ({line['low']} to {line['high']}){products}"

    nets = list(dict.fromkeys(line["net"] for line in lines))
    return (
        "## Beyond the quadratic\n\nIn units of one `quadratic_along` of the same captured loss and batch: the median, "
        "over interleaved rounds, of the ratio within a round, its quartiles, and the products of the program over "
        "those of the quadratic's. Written by `python -m benchmarks.costs.beyond`.\n\n"
        + table("verb", nets, dict.fromkeys(line["verb"] for line in lines), cell)
    )


def first_calls(found: Findings) -> str:
    """Compile time."""
    ways = [way for way in found.ways if any((found.first_call(m, way) or 0) > 1 for m in found.models)]
    if not ways:
        return ""

    def cell(model: str, way: str) -> str:
        seconds = found.first_call(model, way)
        return "" if seconds is None else f"{seconds:.1f}"

    return (
        "## First call\n\nSeconds to prepare and to answer once, nothing cached, one thread: tracing and compiling. "
        "Ways that take more than a second on some model.\n\n" + table("way", found.models, ways, cell)
    )


def failures(found: Findings) -> str:
    """What raised."""
    seen: dict[tuple[str, str, str], list[str]] = {}
    for trial in found.trials:
        if trial.message and trial.outcome != "absent":
            seen.setdefault((trial.way, trial.outcome, trial.message), []).append(f"{trial.model}, {trial.dtype}")
    absent = sorted({trial.message for trial in found.trials if trial.outcome == "absent"})
    body = [[way, outcome, _shortened(where), f"`{text}`"] for (way, outcome, text), where in seen.items()]
    body += [[row.way, "not timed", row.model, f"`{row.message}`"] for row in found.timings if row.message]
    lines = ["\n".join(f"- {line}" for line in absent)] if absent else []
    lines += [rows(["way", "outcome", "where", "first line"], body)] if body else []
    return "## What gave no answer\n\n" + "\n\n".join(lines) if lines else ""


def _shortened(where: list[str]) -> str:
    models = list(dict.fromkeys(place.rpartition(", ")[0] for place in where))
    both = len(where) == 2 * len(models)
    return ", ".join(models) + ("" if both else f" ({', '.join(sorted({p.rpartition(', ')[2] for p in where}))})")


def method(found: Findings) -> str:
    """How it was measured."""
    counts = [row.rounds for row in found.timings if row.rounds]
    rounds = f"{min(counts)} to {max(counts)}" if counts else "no"
    return (
        "## How\n\n"
        "- Every way is tried on every model in a process of its own first: a crash or a timeout is a result. Then one "
        f"process a model times all that answered, interleaved: {rounds} rounds after two of warm-up, each ratio taken "
        "within its round. A call of a tiny net is repeated until five milliseconds are full.\n"
        "- The gradient is torch.autograd.grad of the module called directly. A way is given θ, d and the batch and "
        f"returns slope and curvature; {POINTS} batches with their own directions take turns. What takes d = −g from "
        "its own gradient (`grad_and_quadratic`) has the gradient in its time. curvlinops and hessian-eigenthings give "
        "Hd and no slope, and are timed without one.\n"
        "- JAX gets the same weights and batches as arrays that it holds already, is compiled, and waited for; "
        "attention there is an explicit softmax.\n"
        "- Memory: allocations and releases of PyTorch's CPU allocator as the profiler reports them (device: the "
        "allocator's peak); for JAX what XLA reserves for temporaries and results."
    )


def table(corner: str, columns: list[str], names: Iterable[str], cell: Callable[[str, str], str]) -> str:
    """Ways down, models across."""
    return rows([corner, *columns], [[name, *(cell(model, name) for model in columns)] for name in names])


def rows(head: list[str], body: Table) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
