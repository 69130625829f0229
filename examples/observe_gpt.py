"""α* of a small GPT under AdamW, in a hand-written loop: three lines of it are the observer's.

    python examples/observe_gpt.py [--steps 60] [--every 5] [--csv alpha.csv]

The model learns to add two numbers digit by digit, with warm-up, a cosine schedule and clipped gradients. Every fifth
step is a line: the loss, α* in steps of AdamW (1 is the step as it is), the learning rate that would have landed on the
minimum of the quadratic, the cosine between the step and −g, what share of the slope is weight decay's, and the gain
ratio: near 1 α* can be trusted.
"""

import argparse
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alpha_func import Observer
from alpha_func.observer import StepRecord
from alpha_func.observer.loggers import CSVLog

DIGITS, LENGTH = 2, 8  # "47+85=132" is 4 7 + 8 5 = 2 3 1, the sum from its last digit
VOCABULARY = "0123456789+="


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-2, -3).flatten(-2)
        x = x + self.drop(self.out(attended))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    """Tokens to logits."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2, dropout: float = 0.1):
        super().__init__()
        self.tokens = nn.Embedding(len(VOCABULARY), width)
        self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(VOCABULARY), bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions)))


def sums(count: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of ``count`` random additions; only the digits of the sum are to be predicted."""
    a, b = torch.randint(10**DIGITS, (2, count))
    digits = torch.stack([a // 10, a % 10, torch.full_like(a, 10), b // 10, b % 10, torch.full_like(a, 11)], 1)
    total = a + b
    text = torch.cat([digits, torch.stack([total % 10, total // 10 % 10, total // 100], 1)], 1)
    inputs, targets = text[:, :-1], text[:, 1:].clone()
    targets[:, :5] = -100
    return inputs, targets


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Over the positions that are to be predicted."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def show(record: StepRecord) -> None:
    """A line of the table."""
    print(
        f"{record.step:5d}  {record.loss:6.3f}  {record.alpha_steps:9.3g}  {record.lr:8.2g}  {record.alpha_lr:9.2g}  "
        f"{record.cosine:6.3f}  {record.weight_decay_share:8.1e}  {record.gain_ratio:5.2f}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--csv", help="keep the records in this file too")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    warmed = options.steps // 10 or 1
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warmed, 0.5 + 0.5 * math.cos(math.pi * i / options.steps))
    )
    print(" step    loss         α*        lr      α*·lr  cosine     decay   gain")
    logs = [show, CSVLog(options.csv)] if options.csv else [show]
    with Observer(model, cross_entropy, optimizer, every=options.every, log=logs) as observer:
        for _ in range(options.steps):
            inputs, targets = sums(128)
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            observer.batch(inputs, targets, loss=loss)
            optimizer.step()
            schedule.step()


if __name__ == "__main__":
    main()
