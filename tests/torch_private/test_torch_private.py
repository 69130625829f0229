"""What the library uses of PyTorch's inside is there; a release that takes one away fails here by name."""

import pytest
import torch

from alpha_func import torch_private
from alpha_func.capture.tracing import otherwise
from alpha_func.capture.tracing.recording import Recorder
from tests.helpers.fakes import fake_ranks

aten = torch.ops.aten


@pytest.mark.parametrize("name", torch_private.__all__)
def test_a_private_name_is_there(name):
    assert getattr(torch_private, name) is not None


def test_fully_shard_leaves_its_marks_and_its_policy():
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    with fake_ranks(2):
        module = fully_shard(torch.nn.Linear(2, 2), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
        assert vars(module).keys() >= torch_private.FSDP_MARKS
        assert torch_private.fsdp_dtypes(module)[0] is torch.bfloat16
        assert torch_private.fsdp_dtypes(torch.nn.Linear(2, 2)) == (None, None)


def test_schemas_say_what_is_written_and_what_may_share_memory():
    x, y = torch.ones(2), torch.ones(2)
    assert torch_private.writes_in_place(aten.add_.Tensor)
    assert not torch_private.writes_in_place(aten.add.Tensor)
    assert torch_private.is_written(aten.add.out, (x, x), {"out": y}) == [y]
    assert torch_private.out_argument(aten.gelu_backward.grad_input) == "grad_input"
    alike = (aten.mul.Tensor, aten.view.default, aten.reshape.default)
    assert [*map(torch_private.allocates, alike)] == [True, False, False]


def test_lists_of_tensors_are_taken_in_one_call():
    x, y = [torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 1.0])]
    assert [each.tolist() for each in torch_private.norms(x)] == [5.0]
    assert [each.tolist() for each in torch_private.added(x, y, alpha=2)] == [[5.0, 6.0]]
    assert [each.tolist() for each in torch_private.subtracted(x, y)] == [[2.0, 3.0]]


def test_a_view_is_in_the_memory_of_its_base_and_a_clone_is_not():
    x = torch.ones(2)
    assert torch_private.memory_id(x) == torch_private.memory_id(x[1:]) != torch_private.memory_id(x.clone())


def test_inductor_is_where_it_was():
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx_inner

    assert torch_private.inductor_decompositions()
    assert all(map(callable, (TracingContext, tracing, compile_fx_inner)))


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


@pytest.mark.parametrize(("where", "name", "ours"), otherwise._CHANGES)
def test_a_method_of_dynamo_is_there(where, name, ours):
    assert callable(getattr(torch_private.of_dynamo(where), name))
