"""Modules and tensors that no loss can be differentiated through, refused by name before anything runs."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from alpha_func import tree
from alpha_func.calls import Args, Kwargs


def refuse_undifferentiable(argument: str, module: nn.Module) -> None:
    """Refuse a module with a part that is TorchScript, quantised, or not initialised yet."""
    for name, part in module.named_modules():
        what = f"{argument}'s part {name!r}" if name else argument
        if isinstance(part, torch.jit.ScriptModule):
            raise TypeError(
                f"{what} is a {type(part).__name__} of torch.jit, whose parameters cannot be replaced: "
                "pass the Python module that it was scripted or traced from"
            )
        if any(is_lazy(parameter) for parameter in part._parameters.values() if parameter is not None):
            raise ValueError(
                f"{what} is a {type(part).__name__} whose parameters have no shape yet: call it once on its inputs"
            )
        if any(map(_is_quantised, _held(part))):
            raise TypeError(f"{what} is a quantised {type(part).__name__}, which has no derivative: {_QUANTISED}")


def refuse_kinds(args: Args, kwargs: Kwargs) -> None:
    """Refuse a tensor among the arguments of a loss through which nothing is differentiated twice."""
    for path, value in tree.named_leaves((args, kwargs)):
        name = ("args" if path.startswith("[0]") else "kwargs") + path[3:]
        if isinstance(value, Tensor) and value.is_nested:
            raise TypeError(
                f"{name} is a nested tensor ({value.layout}), whose operators torch.func does not differentiate twice: "
                "pass a padded tensor and its mask (torch.nested.to_padded_tensor)"
            )
        if isinstance(value, Tensor) and value.is_quantized:
            raise TypeError(f"{name} is a quantised tensor ({value.dtype}): {_QUANTISED}")


_QUANTISED = "compute in floating point (call dequantize(), or use the module before its conversion)"


def _held(module: nn.Module) -> list[object]:
    """What a layer may hold its weight in: buffers, and the packed parameters of torch.ao."""
    return [*module._buffers.values(), *vars(module).values()]


def _is_quantised(value: object) -> bool:
    return value.is_quantized if isinstance(value, Tensor) else isinstance(value, torch.ScriptObject)
