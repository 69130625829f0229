"""What the library uses of PyTorch's inside is there; a release that takes one away fails here by name."""

import pytest
import torch

from alpha_func import torch_private


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
