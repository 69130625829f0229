"""Where PyTorch loses a second derivative at an exact 0, an uncaptured loss is refused, and a captured one right."""

import pytest
import torch

from alpha_func import capture, quadratic_along
from alpha_func.errors import StrategyError
from alpha_func.transforms import STRATEGIES

D = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
ZEROS = torch.tensor([0.0, 0.7, 0.0], dtype=torch.float64)
AWAY = ZEROS + 0.1


def itself(x):
    return x * x


# name: the loss, and its curvature along D at ZEROS
LOSSES = {
    "abs": (lambda x: (x.abs() ** 2).sum(), 2 * D @ D),
    "abs of a view, scaled": (lambda x: (3 * x.abs().view(1, -1)).square().sum(), 18 * D @ D),
    "abs times itself": (lambda x: itself(x.abs()).sum(), 2 * D @ D),
    "a complex abs": (lambda x: ((1 + 1j) * x).abs().square().sum(), 4 * D @ D),
    "std": (lambda x: torch.stack([x, -x]).std(0).square().sum(), 4 * D @ D),
    "pow": (lambda x: ((2 + x) ** x).sum(), None),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", LOSSES)
def test_an_exact_zero_is_nan_or_refused_uncaptured(name, strategy):
    loss, _ = LOSSES[name]
    assert quadratic_along(loss, strategy=strategy)(AWAY, D).curvature.isfinite()
    if (name, strategy) == ("std", "reverse_over_forward"):
        assert quadratic_along(loss, strategy=strategy)(ZEROS, D).curvature.isnan()
        return
    with pytest.raises(StrategyError, match=r"of an exact 0|that moves, and is 0"):
        quadratic_along(loss, strategy=strategy)(ZEROS, D)


@pytest.mark.parametrize("name", [name for name, (_, curvature) in LOSSES.items() if curvature is not None])
def test_it_is_exact_captured(name):
    loss, curvature = LOSSES[name]
    torch.testing.assert_close(quadratic_along(capture(loss, strict=True))(ZEROS, D).curvature, curvature)


def test_a_zero_that_comes_later_is_refused_too():
    along = quadratic_along(LOSSES["abs"][0])
    along(AWAY, D)
    with pytest.raises(StrategyError, match="of an exact 0"):
        along(ZEROS, D)


@pytest.mark.parametrize("loss", [lambda x: x.abs().sum(), lambda x: (x.abs() + 1).square().sum()])
def test_a_kink_has_the_convention_of_pytorch(loss):
    assert quadratic_along(loss)(ZEROS, D).curvature.isfinite()


def test_sinc_at_zero_is_nan_or_refused_uncaptured_and_exact_captured():
    def loss(x):
        return torch.sinc(x).sum()

    at, d = ZEROS[:1], D[:1]
    assert quadratic_along(loss)(at, d).curvature.isnan()
    with pytest.raises(StrategyError, match="sinc"):
        quadratic_along(loss, strategy="forward_over_reverse")(at, d)
    expected = torch.tensor(-(torch.pi**2) / 3, dtype=torch.float64)
    torch.testing.assert_close(quadratic_along(capture(loss))(at, d).curvature, expected)
