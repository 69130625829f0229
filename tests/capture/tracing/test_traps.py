"""What a recording could leave out without a word: it is guarded, in the program, or refused."""

import logging
from types import MappingProxyType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, quadratic_along
from alpha_func.capture.tracing import recording
from alpha_func.errors import CaptureError, ImpureLossError
from alpha_func.losses.module_loss import ModuleLoss
from tests.helpers.reference import assert_close, double_backward


def asserting(p, x):
    assert (x > 0).all()
    return (p * x).square().sum()


def checking(p, x):
    torch._assert(bool((x > 0).all()), "not positive")
    return (p * x).square().sum()


def checking_asynchronously(p, x):
    torch._assert_async((x > 0).all())
    return (p * x).square().sum()


def raising(p, x):
    if not (x > 0).all():
        raise ValueError("not positive")
    return (p * x).square().sum()


def asserting_of_parameters(p, x):
    assert (p > 0).all()
    return (p * x).square().sum()


@pytest.mark.parametrize("loss", [checking_asynchronously, asserting_of_parameters])
def test_an_assertion_that_a_program_would_drop_is_refused(loss):
    with pytest.raises(CaptureError, match=r"only checks values|Data-dependent branching"):
        capture(loss)(torch.ones(3), torch.ones(3))


@pytest.mark.parametrize(
    ("loss", "error"), [(asserting, AssertionError), (checking, AssertionError), (raising, ValueError)]
)
def test_an_assertion_on_arguments_holds_at_every_call(loss, error):
    captured = capture(loss)
    for x in (torch.ones(3), 2 * torch.ones(3)):
        torch.testing.assert_close(captured(torch.ones(3), x), x.square().sum())
    with pytest.raises(error):
        captured(torch.ones(3), -torch.ones(3))
    assert captured.captured == 1


def penalty(p, x):
    return torch.func.grad(lambda x: (x @ p).tanh().sum())(x).square().sum()


def product(p, x):
    return torch.func.jvp(lambda x: (x @ p).tanh(), (x,), (x,))[1].square().sum()


def penalty_by_row(p, x):
    return torch.func.vmap(torch.func.grad(lambda row: (row @ p).tanh().sum()))(x).square().sum()


@pytest.mark.parametrize("loss", [penalty, product, penalty_by_row])
def test_torch_func_inside_a_loss_is_captured(loss):
    p, d, x = torch.randn(3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    got, (expected, scale) = quadratic_along(capture(loss))(p, d, x.mT), double_backward(loss, p, d, x.mT)
    for number, true in zip(got, expected, strict=True):
        assert_close(number, true, 1e-12, 1 + scale)


def test_torch_func_inside_a_loss_is_captured_under_forward_mode():
    p, d, x = torch.randn(3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()

    def loss(p, x):  # a quantile writes in place within itself
        return product(p, x) + p.quantile(0.3) ** 2

    got = quadratic_along(capture(loss), strategy="forward_over_forward")(p, d, x.mT)
    expected, scale = double_backward(loss, p, d, x.mT)
    for number, true in zip(got, expected, strict=True):
        assert_close(number, true, 1e-12, 1 + scale)


def test_a_hook_on_every_module_is_seen_when_it_comes_and_when_it_goes():
    loss, params = functional_loss(nn.Linear(2, 1), lambda out, y: out.sum())
    captured, x = capture(loss), torch.ones(1, 2)
    before = captured(params, x, None)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: 3 * out)
    try:
        hooked = captured(params, x, None)
        torch.testing.assert_close(hooked, loss(params, x, None))
    finally:
        handle.remove()
    assert hooked != before
    assert captured(params, x, None) == before


def test_more_changes_than_recordings_are_kept_stay_right(monkeypatch):
    monkeypatch.setattr(recording, "MAX_RECORDINGS", 2)
    scale = [1.0]
    captured = capture(lambda p: scale[0] * p.sum())
    for scale[0] in (1.0, 2.0, 3.0, 4.0, 1.0, 3.0):
        assert captured(torch.ones(1)) == scale[0]


def test_a_program_that_is_dropped_is_not_talked_about(monkeypatch, caplog):
    monkeypatch.setattr(recording, "MAX_RECORDINGS", 2)
    logger = logging.getLogger("torch._dynamo")
    monkeypatch.setattr(logger, "propagate", True)
    scale = [1.0]
    captured = capture(lambda p: scale[0] * p.sum())
    for scale[0] in (1.0, 2.0, 3.0):
        captured(torch.ones(1))
    assert not caplog.records


def test_dropout_of_a_channels_last_batch_draws_its_own_mask():
    torch.manual_seed(0)
    loss, params = functional_loss(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)), nn.MSELoss())
    x, y = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, 4)
    captured = capture(loss)
    found = []
    for batch in (x, x.to(memory_format=torch.channels_last), x):
        found.append(captured(params, batch, y))
        torch.testing.assert_close(found[-1], loss(params, batch, y))
    assert found[0] == found[2] != found[1]


# What else a loss may read of a call: () -> a number
READ = {
    "strides": lambda x: float(x.stride(0)),
    "requires_grad": lambda x: 1.0 + x.requires_grad,
    "the default dtype": lambda x: 1.0 + torch.tensor(2.0).element_size(),
    "deterministic algorithms": lambda x: 1.0 + torch.are_deterministic_algorithms_enabled(),
    "grad mode within": lambda x: 1.0 + torch.is_grad_enabled(),
}
CALLS = {
    "strides": lambda f, x: f(x.mT.contiguous().mT),
    "requires_grad": lambda f, x: f(x.clone().requires_grad_()),
}


@pytest.mark.parametrize("name", READ)
def test_a_loss_that_reads(name):
    captured = capture(lambda p, x: READ[name](x) * F.mse_loss(p, x))
    p, x = torch.zeros(2, 3), torch.ones(2, 3)

    def value(x):
        return float(captured(p, x).detach()), READ[name](x)

    def other(x):
        before = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
        try:
            torch.set_default_dtype(torch.float64)
            torch.use_deterministic_algorithms(True)
            return value(x)
        finally:
            torch.set_default_dtype(before[0])
            torch.use_deterministic_algorithms(before[1])

    for call in (value, lambda x: CALLS.get(name, lambda f, x: other(x))(value, x), value):
        got, expected = call(x)
        assert got == expected


def test_a_default_device_is_seen():
    captured, p = capture(lambda p: (p * torch.ones(2)).sum()), torch.ones(2)
    assert captured(p) == 2
    with torch.device("meta"), pytest.raises((RuntimeError, TypeError)):
        captured(p)
    assert captured(p) == 2


class Teacher(nn.Module):
    def forward(self, x):
        return 3 * x if self.training else x


def test_a_closed_over_module_switched_to_eval_is_seen():
    teacher, p = Teacher(), torch.ones(3)
    captured = capture(lambda p: teacher(p).sum())
    assert captured(p) == 9
    teacher.eval()
    assert captured(p) == 3


def test_a_loss_with_attributes_of_the_librarys_names_is_guarded():
    class Loss:
        names, places, buffers, ties, kept, tied, hooked = [1.0] * 7

        def __call__(self, p):
            return (self.names + self.places + self.buffers + self.ties + self.kept + self.tied + self.hooked) * p.sum()

    loss, p = Loss(), torch.ones(1)
    captured = capture(loss)
    assert captured(p) == 7
    for name in ModuleLoss.CONSTANT:
        before = captured(p)
        setattr(loss, name, 2.0)
        assert captured(p) == before + 1


def test_a_known_call_is_looked_up_without_a_walk(monkeypatch):
    loss, params = functional_loss(nn.Linear(3, 2), nn.MSELoss())
    captured, batch = capture(loss), (torch.ones(4, 3), torch.ones(4, 2))
    before = captured(params, *batch)
    monkeypatch.setattr("alpha_func.tree.flatten", None)
    assert captured(params, *batch) == before
    assert captured({name: 2 * value for name, value in params.items()}, *batch) != before


def test_parameters_that_come_to_lie_in_what_the_loss_reads_are_refused():
    held = torch.ones(6)
    captured = capture(lambda p: (p * held[:3]).sum())
    assert captured(torch.ones(3)) == 3
    with pytest.raises(ImpureLossError, match="memory of parameter"):
        captured(held[:3])
    assert captured(torch.ones(3)) == 3


SHOWN, OTHER = {"scale": 3.0}, {"scale": 1.0}
PROXY = MappingProxyType(SHOWN)


@pytest.mark.parametrize(("written", "captured"), [(OTHER, 1), (SHOWN, 0)], ids=["another", "the one it shows"])
def test_a_proxy_is_read_after_a_write_to_another_dictionary(written, captured):
    def loss(p):
        written["scale"] = 2.0  # as inspect.Signature is read in transformers
        return PROXY["scale"] * p.square().sum()

    p, of = torch.ones(2), capture(loss)
    if captured:
        assert of(p) == 6
    else:
        with pytest.raises(CaptureError, match="proxy"):
            of(p)
    assert of.captured == captured


def test_which_kernel_is_taken_is_no_part_of_a_loss():
    def loss(p):  # as transformers calls F.ctc_loss
        with torch.backends.cudnn.flags(enabled=False):
            return p.square().sum()

    assert capture(loss)(torch.ones(3)) == 3
