"""What α* costs on models of real size, their weights random: time, memory and the first call, in gradients.

    python -m benchmarks.costs.real_models [model ...] [--rounds 5] [--threads 2]     (writes benchmarks/REAL_MODELS.md)

float32, train mode, the module called directly for the gradient, medians of interleaved rounds, a process a model.
Needs the package ``transformers``; nothing is downloaded.
"""

import argparse
import os
import platform
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

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along
from benchmarks.memory import peak_bytes

PAGE = Path(__file__).parents[1] / "REAL_MODELS.md"
HEAD = """# Models of real size

Written by `python -m benchmarks.costs.real_models`: random weights, float32, train mode, one batch. The unit of time
and memory is one eager gradient of the module called directly. Memory is what a call adds at most to parameters,
direction and batch. A first call is the capture, the program and its proof; that of `grad_and_quadratic` comes second,
and finds the loss captured. The error is that of the curvature beside double backward in float32.

| model and batch | parameters | gradient | | time | memory | first call | error | run |
|---|---|---|---|---|---|---|---|---|
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


def measured(name: str, rounds: int) -> list[str]:
    """The rows of one model."""
    torch.manual_seed(0)
    module, batch, size = MODELS[name]()
    module.train()
    weights = [p for p in module.parameters() if p.requires_grad]
    loss, params = functional_loss(module)
    d = {key: -p for key, p in zip(params, gradient_of(module, batch, weights), strict=True)}
    captured = capture(loss)
    calls: dict[str, Callable[[], Any]] = {
        "gradient": partial(gradient_of, module, batch, weights),
        "`quadratic_along`": partial(quadratic_along(captured), params, d, **batch),
        "`grad_and_quadratic`": partial(grad_and_quadratic(captured), params, **batch),
    }
    load, first, found = os.getloadavg()[0], {}, {}
    for way, call in calls.items():
        begun = time.perf_counter()
        found[way] = call()
        first[way] = time.perf_counter() - begun
    step = found["`grad_and_quadratic`"]
    curvatures = {
        "`quadratic_along`": found["`quadratic_along`"].curvature,
        "`grad_and_quadratic`": step.quadratic.curvature,
    }
    truth = quadratic_along(loss)(params, d, **batch).curvature
    seconds = interleaved(calls, rounds)
    unit, memory = statistics.median(seconds["gradient"]), {way: peak_bytes(call, "cpu") for way, call in calls.items()}
    millions = sum(p.numel() for p in weights) / 1e6
    model = f"{name}, {size} | {millions:.0f} M | {unit:.2f} s, {memory['gradient'] >> 20} MiB"
    rows = []
    for way, curvature in curvatures.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[way], seconds["gradient"], strict=True))
        error = float(abs(curvature - truth) / abs(truth))
        costs = f"{ratio:.2f} | {memory[way] / memory['gradient']:.2f} | {first[way]:.1f} s | {error:.0e}"
        rows.append(f"| {' | | ' if rows else model} | {way} | {costs} | {'' if rows else machine(load)} |")
    return rows


def gradient_of(module: Any, batch: dict[str, torch.Tensor], weights: list[torch.Tensor]) -> Any:
    """One gradient of the module called directly, with the draws of the loss."""
    torch.manual_seed(0)
    return torch.autograd.grad(module(**batch).loss, weights)


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each call, over rounds in which all take their turn, after one of warm-up."""
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    for round_ in range(rounds + 1):
        for way, call in calls.items():
            begun = time.perf_counter()
            call()
            if round_:
                seconds[way].append(time.perf_counter() - begun)
    return seconds


def machine(load: float) -> str:
    """Where and when, and how busy it was."""
    where = f"{os.cpu_count()} cores {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{date.today()}, {where}, torch {torch.__version__}, load {load:.1f} at its start"


def main() -> None:
    """Write the page, a process a model; the rows of models that are not asked for are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--here", action="store_true", help="measure in this process and print the rows")
    options = parser.parse_args()
    if options.here:
        torch.set_num_threads(options.threads)
        print("\n".join(measured(options.models[0], options.rounds)))
        return
    rows = kept()
    for name in options.models:
        given = ["--here", "--rounds", str(options.rounds), "--threads", str(options.threads)]
        command = [sys.executable, "-m", "benchmarks.costs.real_models", name, *given]
        rows[name] = [line for line in subprocess.check_output(command, text=True).splitlines() if line[:1] == "|"]
        print("\n".join(rows[name]), flush=True)
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
