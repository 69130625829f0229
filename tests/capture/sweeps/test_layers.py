"""What a layer more costs a first call: calls written, and nothing asked that an equal layer has been asked."""

import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along
from alpha_func.capture.builder import builder, results
from alpha_func.capture.derivatives import derivative
from alpha_func.capture.tracing import lowering


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm, self.heads, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.heads(self.norm(x)).chunk(3, -1)
        return x + self.out(F.gelu(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


def asked(monkeypatch, layers):
    """How many results and derivatives of an operator PyTorch is asked for, how many calls are written, and how often
    the operators that packages register are looked through."""
    monkeypatch.setattr(results, "_MAKE", made := {})
    monkeypatch.setattr(derivative, "_RECORDED", recorded := {})
    written, looked = [], []
    monkeypatch.setattr(builder, "result_of", lambda *call: written.append(call[1]) or results.result_of(*call))
    monkeypatch.setattr(lowering, "registered", lambda table: looked.append(table) or {})
    torch.manual_seed(0)
    loss, params = functional_loss(nn.Sequential(*(Block() for _ in range(layers))), F.mse_loss)
    batch = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    captured = capture(loss)
    quadratic_along(captured)(params, params, *batch)
    grad_and_quadratic(captured)(params, *batch)
    return len(made), len(recorded), len(looked), len(written)


def test_a_layer_more_writes_its_calls_and_asks_nothing(monkeypatch):
    two, three, four = (asked(monkeypatch, layers) for layers in (2, 3, 4))
    assert two[:3] == three[:3] == four[:3]
    assert four[3] - three[3] == three[3] - two[3]
