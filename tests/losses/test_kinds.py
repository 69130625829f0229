"""What no loss can be differentiated through is refused by name, with the remedy."""

import warnings

import pytest
import torch
from torch import nn

from alpha_func import capture, functional_loss, grad_and_quadratic, hvp, quadratic_along


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)), {nn.Linear})


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


MODULES = {
    "TorchScript": (lambda: scripted(nn.Linear(3, 3)), TypeError, "module is a RecursiveScriptModule.*Python module"),
    "a TorchScript part": (
        lambda: nn.Sequential(nn.Linear(3, 3), scripted(nn.Linear(3, 3))),
        TypeError,
        "module's part '1' is a RecursiveScriptModule",
    ),
    "a lazy layer": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(3)),
        ValueError,
        "part '1' is a LazyLinear whose parameters have no shape.*call it once on its inputs",
    ),
    "a quantised layer": (
        lambda: nn.Sequential(nn.Linear(3, 3), quantised()),
        TypeError,
        "is a quantised LinearPackedParams.*floating point",
    ),
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("name", MODULES)
def test_a_module_with(name):
    make, kind, message = MODULES[name]
    with pytest.raises(kind, match=message):
        functional_loss(make(), nn.MSELoss())


def test_a_criterion_in_torchscript():
    with pytest.raises(TypeError, match="criterion is a RecursiveScriptModule"):
        functional_loss(nn.Linear(3, 3), scripted(nn.MSELoss()))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_the_remedy_for_a_lazy_layer_works():
    module, x = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(3)), torch.ones(2, 3)
    module(x)
    loss, params = functional_loss(module, nn.MSELoss())
    assert torch.isfinite(quadratic_along(loss)(params, params, x, x).curvature)


ARGUMENTS = {
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.quint8),
}
VERBS = {
    "quadratic_along": lambda loss, p, *batch: quadratic_along(loss)(p, p, *batch),
    "hvp": lambda loss, p, *batch: hvp(loss)(p, p, *batch),
    "grad_and_quadratic": lambda loss, p, *batch: grad_and_quadratic(loss)(p, *batch),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_is(name, verb):
    loss, params = functional_loss(
        nn.Linear(3, 3), lambda out, y: torch.nested.to_padded_tensor(out, 0.0).square().sum()
    )
    with pytest.raises(TypeError, match=rf"args\[0\] is a (nested|{name}) tensor .*(padded|floating point)"):
        VERBS[verb](loss, params, ARGUMENTS[name](), None)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("wrap", [capture, lambda loss: capture(loss).frozen()], ids=["captured", "frozen"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_captured_loss_is_given_one_that_is(name, wrap):
    loss, x = wrap(lambda p, x, y=None: (x * p).square().sum()), ARGUMENTS[name]()
    p = torch.ones(3)
    loss(p, torch.ones(2, 3))  # Dynamo's guards on a nested tensor would end the process
    with pytest.raises(TypeError, match=rf"args\[0\] is a (nested|{name}) tensor"):
        loss(p, x)
    with pytest.raises(TypeError, match=rf"kwargs\['y'\]\[0\] is a (nested|{name}) tensor"):
        loss(p, torch.ones(2, 3), y=[x])
