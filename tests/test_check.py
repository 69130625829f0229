"""check_quadratic agrees with what is right, shows what is wrong, and tells a kink from an error."""

import pytest
import torch
from torch import nn

from alpha_func import Quadratic, capture, check_quadratic, functional_loss, tree
from alpha_func.errors import CaptureWarning
from alpha_func.transforms import reverse_over_reverse
from tests.helpers.cases import MODULES, mse_net
from tests.helpers.wrong_rules import none_at_all, plant


@pytest.mark.parametrize("name", ["mlp", "layer_norm", "batch_norm_train", "batch_norm_eval", "dropout", "attention"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_on(name, dtype):
    case = MODULES[name](dtype=dtype)
    check = check_quadratic(case.loss, case.params, case.direction, *case.args)
    assert check.smooth, str(check)
    assert check.agrees, str(check)
    assert check.other is not None


def test_agrees_on_a_captured_loss():
    case = MODULES["layer_norm"]()
    check = check_quadratic(
        capture(case.loss), case.params, case.direction, *case.args, strategy="forward_over_forward"
    )
    assert check.agrees, str(check)


def half_wrong(loss, params, direction):
    value, slope, curvature = reverse_over_reverse(loss, params, direction)
    return Quadratic(value, slope, 1.001 * curvature)


def test_shows_a_curvature_that_is_a_thousandth_off():
    case = mse_net(activation=nn.Tanh)
    check = check_quadratic(case.loss, case.params, case.direction, *case.args, strategy=half_wrong)
    assert not check.agrees
    assert [part.split()[0] for part in check.parts] == ["curvature", "curvature"]
    assert "by differences" in str(check)


def test_a_kink_at_the_point_is_told_apart_from_an_error():
    check = check_quadratic(lambda x: x.relu().sum() + x.square().sum(), torch.zeros(3), torch.ones(3))
    assert not check.smooth
    assert check.agrees
    assert "kink" in str(check)


def test_operands_keep_their_dtype():
    case = mse_net(dtype=torch.float32)
    before = tree.map(torch.clone, case.params)
    check = check_quadratic(case.loss, case.params, case.direction, *case.args)
    assert check.quadratic.curvature.dtype == torch.float64
    for name, leaf in case.params.items():
        assert torch.equal(leaf, before[name])


def test_of_a_captured_loss_the_sweep_that_would_run_is_checked(monkeypatch):
    plant(monkeypatch, second=none_at_all)
    case = mse_net(activation=nn.Tanh)
    with pytest.warns(CaptureWarning, match=r"aten\.tanh\.default"):
        check = check_quadratic(capture(case.loss), case.params, case.direction, *case.args)
    assert check.agrees, str(check)


def test_slope_and_curvature_of_0_are_not_taken_for_a_constant_loss():
    check = check_quadratic(lambda x: x.relu().sum(), torch.zeros(3), torch.ones(3))
    assert not check.agrees
    assert "the loss changes by" in str(check)


class Keeping(nn.Linear):
    def forward(self, x):
        self.last = {"hidden": [super().forward(x)]}
        return self.last["hidden"][0].tanh()


def test_a_module_that_keeps_what_it_has_computed_is_checked():
    torch.manual_seed(0)
    net, x, y = Keeping(3, 4), torch.randn(5, 3), torch.randn(5, 4)
    net(x)
    loss, params = functional_loss(net, nn.functional.mse_loss)
    assert check_quadratic(loss, params, tree.map(torch.randn_like, params), x, y).agrees
    assert net.last["hidden"][0].requires_grad
