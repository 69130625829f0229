"""What no call of the library may change, looked at around every one that a test makes."""

import functools
import random
import sys
import threading

import torch
from torch import nn
from torch._C._functorch import get_dynamic_layer_stack_depth, is_functorch_wrapped_tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.nn.modules import module as global_hooks

from alpha_func import shards
from alpha_func.capture.captured import CapturedLoss
from alpha_func.capture.running.engine import Captured
from alpha_func.capture.sharded.engine import Sharded
from alpha_func.data_sets.microbatches import Chunked
from alpha_func.losses.module_loss import ModuleLoss, module_loss_of
from alpha_func.transforms.engine import Uncaptured

# The outermost of these that a test calls is a call of the library, whatever it was reached by.
CALLS = [
    *(
        (engine, name)
        for engine in (Uncaptured, Captured, Sharded, Chunked)
        for name in ("quadratic", "product", "step")
    ),
    (ModuleLoss, "__call__"),
    (CapturedLoss, "__call__"),
]
SMALL = 10_000  # numbers of a module that are compared one by one; of a larger one, PyTorch's own counts of writes
_HOOKS = [value for name, value in vars(global_hooks).items() if name.startswith("_global") and isinstance(value, dict)]
_within = threading.local()


def of_process():
    """Generators, modes, settings and stacks of the process."""
    numpy = sys.modules.get("numpy")
    return {
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "random": random.getstate(),
        "numpy's generator": numpy and numpy.random.get_state()[1].tobytes(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": torch._C._is_any_autocast_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "precision": torch.get_float32_matmul_precision(),
        "kernels": (
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cudnn.enabled,
            torch._C._get_mkldnn_enabled(),
        ),
        "level of forward mode": forward_ad._current_level,
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "global hooks": [[(key, id(hook)) for key, hook in hooks.items() if _lasts(hook)] for hooks in _HOOKS],
    }


def _lasts(hook):
    """Whether it is none of an observer's, which goes when the observer is collected, whenever that is."""
    return getattr(hook, "__module__", "") != "alpha_func.observer.forwards"


def of_module(module):
    """All that a module holds: which objects, in which order, and the bits of its tensors."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if not is_functorch_wrapped_tensor(t)]
    small = sum(tensor.numel() for tensor in tensors) <= SMALL
    return {
        "objects": {name: _objects(part) for name, part in module.named_modules()},
        "tensors": [_bits(t) if small else (id(t), t._version) for t in tensors],
        "gradients": [(id(p.grad), p.grad is not None and p.grad._version) for p in module.parameters()],
    }


def _objects(module: nn.Module):
    own = vars(module)
    held = {name: list(value.items()) for name, value in own.items() if isinstance(value, dict)}
    held |= {name: list(value) for name, value in own.items() if isinstance(value, list | set)}
    return {
        "attributes": [(name, id(value)) for name, value in own.items()],
        "containers": {
            name: [tuple(map(id, item)) if isinstance(item, tuple) else id(item) for item in items]
            for name, items in held.items()
        },
    }


def _bits(tensor):
    values = shards.local(tensor).detach()
    if values.layout is not torch.strided or values.is_meta:
        return id(tensor), tensor._version
    return (
        id(tensor),
        values.shape,
        values.cpu().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8),
    )


def _everything(source):
    levels = get_dynamic_layer_stack_depth()
    with temporarily_clear_interpreter_stack():  # within a transform, tensors have no bits
        module = {} if source is None else of_module(source.model)
        return of_process() | {"levels of torch.func": levels}, module


def same(a, b):
    """Whether two of the above are equal."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def _loss_of(owner):
    """The loss that a call is of: an engine's, or the loss itself."""
    if isinstance(owner, Captured):
        return owner._lookup.__self__
    return owner if callable(owner) else getattr(owner, "_loss", None)


def watched(call):
    """A method of the library that fails where it has changed something."""

    @functools.wraps(call)
    def around(self, *args, **kwargs):
        if torch.compiler.is_dynamo_compiling():  # a recording has no side effects
            return call(self, *args, **kwargs)
        outermost = not getattr(_within, "call", False) and threading.current_thread() is threading.main_thread()
        if not outermost or torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return call(self, *args, **kwargs)
        source = module_loss_of(_loss_of(self))
        before = _everything(source)
        _within.call = True
        try:
            return call(self, *args, **kwargs)
        finally:
            _within.call = False
            after = _everything(source)
            changed = [
                name for was, now in zip(before, after, strict=True) for name in was if not same(was[name], now[name])
            ]
            assert not changed, f"{type(self).__name__}.{call.__name__} changed {', '.join(changed)}"

    around.__code__ = around.__code__.replace(co_filename=call.__code__.co_filename)  # a warning points past it
    return around
