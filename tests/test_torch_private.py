"""What the library uses of PyTorch's inside is there; a release that takes one away fails here by name."""

import pytest
import torch

from alpha_func import torch_private
from alpha_func.capture.tracing.recording import Recorder


@pytest.mark.parametrize("name", torch_private.__all__)
def test_a_private_name_is_there(name):
    assert callable(getattr(torch_private, name))


@pytest.mark.parametrize("name", torch_private.STRICT)
def test_a_setting_of_dynamo_is_there(name):
    from torch._dynamo import config

    assert hasattr(config, name)


def test_global_hooks_of_modules_are_where_they_were():
    handle = torch.nn.modules.module.register_module_forward_hook(print)
    assert print in torch_private.GLOBAL_HOOKS[0].values()
    handle.remove()


def recorder_of_a_scaled_sum(monkeypatch):
    """A recorder, the scale that its loss reads, and a list of the calls of its compiled frame."""
    scale, calls = [1.0], []
    recorder = Recorder(lambda p: scale[0] * p.sum())
    by_call = recorder._by_call
    monkeypatch.setattr(recorder, "_by_call", lambda *call: calls.append(1) or by_call(*call))
    p = torch.ones(2, requires_grad=True)
    return lambda: recorder(p, (), {})[0], scale, calls


def test_guards_are_asked_without_a_call_until_dynamo_drops_them(monkeypatch):
    recording, scale, calls = recorder_of_a_scaled_sum(monkeypatch)
    first = recording()
    assert recording() is first
    assert len(calls) == 1
    scale[0] = 2.0
    second = recording()
    assert second is not first
    assert recording() is second
    assert len(calls) == 2
    scale[0] = 1.0
    assert recording() is first
    torch._dynamo.reset()
    recording()
    assert len(calls) == 3


def test_without_guards_to_ask_the_compiled_frame_is_called(monkeypatch):
    monkeypatch.setattr(torch_private, "guards_of", lambda *_: None)
    recording, scale, calls = recorder_of_a_scaled_sum(monkeypatch)
    first = recording()
    assert recording() is first
    scale[0] = 2.0
    assert recording() is not first
    assert len(calls) == 3
