"""What α* costs on models of real size, their weights random: time, memory and the first call, in gradients.

    python -m benchmarks.costs.real_models [model ...] [--rounds 5] [--threads 2] [--busy]

Writes benchmarks/REAL_MODELS.md: float32, train mode, the module called directly for the gradient, medians of
interleaved rounds, a process a model.
Without names it measures the models that the page lacks, so an interrupted run goes on. ``--busy``: on a machine
that others use, seconds are those of the process, not the clock's, best with one thread. Needs the package
``transformers``; nothing is downloaded.
"""

import argparse
import ctypes
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.losses.in_double import doubled, loss_in_double
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.strategies import Step
from benchmarks.memory import peak_bytes

Clock = Callable[[], float]
PAGE = Path(__file__).parents[1] / "REAL_MODELS.md"
HEAD = """# Models of real size

Written by `python -m benchmarks.costs.real_models`: random weights, float32, train mode with dropout, one batch.

- **Time and memory** are in eager gradients of the module called directly: the median ratio of interleaved rounds, with
  the smallest and the largest, and what a call adds at most to parameters, direction and batch.
- **Capture** is once for both verbs: Dynamo's recording, the lowering, one value compared. **Program** is writing a
  verb's program and making it ready; **proofs** are its first and second call, the program written, and what the
  process has held at most until then.
- **Errors** are relative, beside double backward of the same module in float64 along the same d = −g.
- **Double backward** is `quadratic_along` of the loss as it is, not captured: PyTorch's price, and PyTorch's roundings.

| model, batch | parameters | gradient | capture | | time | memory | program | proofs | process | slope | curvature | |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def gpt2() -> tuple[Any, dict[str, torch.Tensor], str]:
    """GPT-2, the smallest: 12 layers of width 768, dropout on."""
    import transformers as hf

    tokens = torch.randint(50257, (2, 128))
    return hf.GPT2LMHeadModel(hf.GPT2Config()), {"input_ids": tokens, "labels": tokens}, "2×128 tokens"


def bert() -> tuple[Any, dict[str, torch.Tensor], str]:
    """BERT-base, masked language model, padded."""
    import transformers as hf

    tokens, mask = torch.randint(30522, (2, 128)), torch.ones(2, 128, dtype=torch.long)
    mask[1, 96:] = 0
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": tokens.masked_fill(mask == 0, -100)}
    return hf.BertForMaskedLM(hf.BertConfig()), batch, "2×128 tokens, padded"


def vit() -> tuple[Any, dict[str, torch.Tensor], str]:
    """ViT-B/16 at 224 pixels."""
    import transformers as hf

    batch = {"pixel_values": torch.randn(2, 3, 224, 224), "labels": torch.tensor([1, 2])}
    return hf.ViTForImageClassification(hf.ViTConfig(num_labels=1000)), batch, "2 images of 224²"


def resnet() -> tuple[Any, dict[str, torch.Tensor], str]:
    """ResNet-50, its batch norms in train mode."""
    import transformers as hf

    batch = {"pixel_values": torch.randn(4, 3, 224, 224), "labels": torch.arange(4)}
    return hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000)), batch, "4 images of 224²"


MODELS: dict[str, Callable[[], tuple[Any, dict[str, torch.Tensor], str]]] = {
    "GPT-2": gpt2,
    "BERT-base": bert,
    "ViT-B/16": vit,
    "ResNet-50": resnet,
}


def measured(name: str, rounds: int, clock: Clock) -> list[str]:
    """The rows of one model."""
    timed = partial(timed_by, clock)
    load = os.getloadavg()[0]
    torch.manual_seed(0)
    module, batch, size = MODELS[name]()
    module.train()
    weights = [p for p in module.parameters() if p.requires_grad]
    loss, params = functional_loss(module)
    g = gradient_of(module, batch, weights)
    d = {key: -leaf for key, leaf in zip(params, g, strict=True)}
    captured = capture(loss)
    calls: dict[str, Callable[[], Any]] = {
        "gradient": partial(gradient_of, module, batch, weights),
        "`quadratic_along`": partial(quadratic_along(captured), params, d, **batch),
        "`grad_and_quadratic`": partial(grad_and_quadratic(captured), params, **batch),
        "double backward": partial(quadratic_along(loss), params, d, **batch),
    }
    captured_in, program = timed(partial(captured.program, params, **batch))
    schemes = {"`quadratic_along`": program.schemes.quadratic, "`grad_and_quadratic`": program.schemes.descent}
    first = {"double backward": " | | "}
    found: dict[str, Any] = {}
    for way, scheme in schemes.items():
        written_in, _ = timed(partial(scheme.ready, "eager"))
        (one, found[way]), (two, _) = timed(calls[way]), timed(calls[way])
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        first[way] = f"{written_in:.1f} s | {one:.1f} + {two:.1f} s | {held:.1f} GiB"
    found["double backward"] = calls["double backward"]()  # which looks at the loss first
    once, _ = timed(calls["double backward"])
    seconds = interleaved({way: call for way, call in calls.items() if way != "double backward"}, rounds, clock)
    seconds["double backward"] = [once] * rounds
    unit, memory = statistics.median(seconds["gradient"]), {way: peak_bytes(call, "cpu") for way, call in calls.items()}
    lines = {way: each[1:] if isinstance(each, Step) else (d, each) for way, each in found.items()}
    del calls, captured, program, schemes, scheme, found  # float64 takes the room of two
    errors = errors_of(loss, params, list(lines.values()), batch)
    millions = sum(p.numel() for p in weights) / 1e6
    gradient = f"{unit:.2f} s, {memory['gradient'] >> 20} MiB"
    model = f"{name}, {size} | {millions:.0f} M | {gradient} | {captured_in:.1f} s"
    rows = []
    for way, error in zip(lines, errors, strict=True):
        ratios = [a / b for a, b in zip(seconds[way], seconds["gradient"], strict=True)]
        spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if way != "double backward" else ", once"
        share = memory[way] / memory["gradient"]
        costs = f"{statistics.median(ratios):.2f}{spread} | {share:.2f} | {first[way]} | {error}"
        rows.append(f"| {' | | | ' if rows else model} | {way} | {costs} | {'' if rows else machine(load, clock)} |")
    return rows


def errors_of(
    loss: Any, params: dict[str, torch.Tensor], lines: list[tuple[Any, Quadratic]], batch: dict[str, torch.Tensor]
) -> list[str]:
    """How far slopes and curvatures are from double backward in float64, along each direction once."""
    exact_along = quadratic_along(loss_in_double(loss))
    at, of, known = tree.map(doubled, params), tree.map(doubled, batch), dict[int, Any]()
    found = []
    for d, quadratic in lines:
        if id(d) not in known:
            if platform.system() == "Linux":
                ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what is freed in pieces
            known[id(d)] = exact_along(at, tree.map(doubled, d), **of)
        pairs = zip(quadratic[1:], known[id(d)][1:], strict=True)
        found.append(" | ".join(f"{float(abs(a - b) / abs(b)):.0e}" for a, b in pairs))
    return found


def timed_by(clock: Clock, call: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds of a call, and what it returns."""
    begun = clock()
    found = call()
    return clock() - begun, found


def gradient_of(module: Any, batch: dict[str, torch.Tensor], weights: list[torch.Tensor]) -> Any:
    """One gradient of the module called directly, with the draws of the loss."""
    torch.manual_seed(0)
    return torch.autograd.grad(module(**batch).loss, weights)


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """The seconds of each call, over rounds in which all take their turn, after one of warm-up."""
    taken = [{way: timed_by(clock, call)[0] for way, call in calls.items()} for _ in range(rounds + 1)]
    return {way: [seconds[way] for seconds in taken[1:]] for way in calls}


def machine(load: float, clock: Clock) -> str:
    """Where and when, how busy it was, and whose seconds they are."""
    unit = "seconds of the clock" if clock is time.perf_counter else "seconds of the process"
    where = f"{os.cpu_count()} cores {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{date.today()}, {where}, torch {torch.__version__}, load {load:.1f} at its start, {unit}"


def main() -> None:
    """Write the page, a process a model, after each; the rows of models that are not measured are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", choices=[*MODELS, []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", action="store_true", help="in seconds of the process, not the clock's")
    parser.add_argument("--here", action="store_true", help="measure in this process and print the rows")
    options = parser.parse_args()
    if options.here:
        torch.set_num_threads(options.threads)
        print(
            "\n".join(
                measured(options.models[0], options.rounds, time.process_time if options.busy else time.perf_counter)
            )
        )
        return
    rows = kept()
    for name in options.models or [name for name in MODELS if name not in rows]:
        given = [
            "--here",
            "--rounds",
            str(options.rounds),
            "--threads",
            str(options.threads),
            *(["--busy"] if options.busy else []),
        ]
        command = [sys.executable, "-m", "benchmarks.costs.real_models", name, *given]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
        found = [line for line in printed.splitlines() if line[:1] == "|"]
        if not found:
            print(f"{name}: not measured, its process has failed", flush=True)
            continue
        rows[name] = found
        print("\n".join(found), flush=True)
        PAGE.write_text(HEAD + "".join(f"{row}\n" for model in MODELS for row in rows.get(model, [])))


def kept() -> dict[str, list[str]]:
    """The rows of the page that is there, by model."""
    rows: dict[str, list[str]] = {}
    for line in PAGE.read_text().splitlines() if PAGE.exists() else []:
        name = next((name for name in MODELS if line.startswith(f"| {name},")), None)
        if name:
            rows[name] = [line]
        elif line.startswith("|  |") and rows:
            rows[[*rows][-1]].append(line)
    return rows


if __name__ == "__main__":
    main()
