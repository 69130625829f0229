"""Arrays of NumPy in a captured loss: arguments, and what it closes over, as they are at each call."""

import numpy as np
import pytest
import torch
from torch import nn

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along
from tests.helpers.reference import assert_close, double_backward

W = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
ROWS = np.linspace(-1, 2, 12).reshape(4, 3)


def of_an_argument(held):
    return lambda w, rows: torch.tanh(torch.as_tensor(rows) @ w).square().mean()


def of_a_closure(held):
    return lambda w, rows: (torch.tanh(torch.from_numpy(held["rows"]) @ w) * torch.from_numpy(rows[:, 0])).sum()


class Noised(nn.Module):
    """A schedule as an array, indexed by the steps of a batch (Dhariwal & Nichol's code, 2021)."""

    def __init__(self, held):
        super().__init__()
        self.held, self.scale = held, nn.Parameter(W.clone())

    def forward(self, rows):
        steps = torch.tensor([0, 3, 1, 1])
        level = torch.from_numpy(np.cumprod(1 - np.abs(self.held["rows"][:, 0]) / 9))[steps]
        return (level.sqrt()[:, None] * torch.from_numpy(rows) * self.scale).sin().square().mean()


def of_a_module(held):
    return functional_loss(Noised(held))[0]


def params(make):
    return {"scale": W} if make is of_a_module else W


@pytest.mark.parametrize("make", [of_an_argument, of_a_closure, of_a_module])
def test_a_captured_loss_reads_its_arrays_at_every_call(make):
    held = {"rows": ROWS.copy()}
    loss, at = make(held), params(make)
    captured = capture(loss, strict=True)
    for rows in (ROWS, ROWS + 0.5):
        for change in range(3):
            if change == 1:
                held["rows"][:] = held["rows"][::-1] * 0.7  # in place
            if change == 2:
                held["rows"] = np.cos(held["rows"])
            truth, norm = double_backward(loss, at, at, rows)
            for got in (
                quadratic_along(captured)(at, at, rows),
                grad_and_quadratic(captured, lambda _: at)(at, rows)[2],
            ):
                assert_close(got.value, truth.value, 1e-12)
                assert_close(got.slope, truth.slope, 1e-11, 1 + abs(truth.slope))
                assert_close(got.curvature, truth.curvature, 1e-10, 1 + norm)
