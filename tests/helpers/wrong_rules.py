"""Rules made wrong, to see that it is found out."""

from dataclasses import replace

import torch

from alpha_func.capture.derivatives.rule import RULES

TANH = torch.ops.aten.tanh.default


def plant(monkeypatch, operator=TANH, **parts):
    """Let the rule of an operator have other parts."""
    monkeypatch.setitem(RULES, operator, replace(RULES[operator], **parts))


def none_at_all(b, call, tangents):
    """A derivative that is taken for zero."""
    return
