"""The five nets of the goals, each with its loss and batch, in float32."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """x + SiLU(BatchNorm(conv(SiLU(BatchNorm(conv(x)))))."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x):
        return F.silu(x + self.body(x))


def fused_attention(q, k, v):
    """By PyTorch's kernel."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def softmax_attention(q, k, v):
    """softmax(qkᵀ/√n + mask) v."""
    t, n = q.shape[-2:]
    later = torch.ones(t, t, dtype=torch.bool, device=q.device).triu(1)
    return ((q @ k.transpose(-2, -1)) * n**-0.5).masked_fill(later, float("-inf")).softmax(-1) @ v


class Block(nn.Module):
    """A pre-norm transformer block with causal attention, by PyTorch's kernel or explicitly by a softmax."""

    def __init__(self, width, heads, explicit=False):
        super().__init__()
        self.heads, self.attend = heads, softmax_attention if explicit else fused_attention
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(c, -1)
        q, k, v = (a.view(b, t, self.heads, c // self.heads).transpose(1, 2) for a in (q, k, v))
        y = self.attend(q, k, v).transpose(1, 2).reshape(b, t, c)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Tokens to logits."""

    def __init__(self, vocabulary=1000, width=256, heads=4, layers=4, context=128, explicit=False):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, explicit) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x))).flatten(0, 1)


def next_token(logits, targets):
    """Cross entropy of flattened positions."""
    return F.cross_entropy(logits, targets.flatten())


def small():
    """10-5-1 on a batch of 32."""
    net = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))
    return net, nn.MSELoss(), torch.randn(32, 10), torch.randn(32, 1)


def mlp():
    """Tanh, six hidden layers of 512."""
    sizes = [512] * 7
    hidden = [layer for m, n in pairwise(sizes) for layer in (nn.Linear(m, n), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(512, 10)), nn.CrossEntropyLoss(), torch.randn(256, 512), _classes(256)


def conv():
    """32-64-128 channels with ReLU and max-pooling."""
    layers = []
    for m, n in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(m, n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))
    return net, nn.CrossEntropyLoss(), torch.randn(64, 3, 32, 32), _classes(64)


def residual():
    """Two residual blocks of width 32 with BatchNorm in train mode and SiLU."""
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.SiLU(),
        Residual(32), Residual(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    return net, nn.CrossEntropyLoss(), torch.randn(64, 3, 32, 32), _classes(64)


def gpt():
    """Four layers of width 256 with four heads; 8 sequences of 128 tokens."""
    return GPT(), next_token, torch.randint(1000, (8, 128)), torch.randint(1000, (8, 128))


def _classes(n):
    return torch.randint(10, (n,))


NETS = {"10-5-1": small, "mlp": mlp, "conv": conv, "residual": residual, "gpt": gpt}
