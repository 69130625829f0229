"""Images channels last, where a program convolves them on a CPU.

oneDNN reorders contiguous images at every convolution, forth and back: 1.0 to 2.6 times the time of channels-last ones.
What is made of them elementwise, by pooling or by normalisation keeps their layout, so most are laid out once, at the
first convolution. In float64, PyTorch has kernels for contiguous images alone.
"""

from operator import getitem

import torch
from torch import fx

from alpha_func.calls import Args, Kwargs
from alpha_func.capture.builder.builder import Builder, Law
from alpha_func.capture.builder.operands import is_call
from alpha_func.capture.builder.values import Operator, Value
from alpha_func.capture.rewrites.table import CHANNELS_LAST, IN_PRIMITIVES

aten = torch.ops.aten


def _convolved(target: Operator, images: int) -> Law:
    def images_are_channels_last(b: Builder, args: Args, kwargs: Kwargs) -> Value:
        """f(x, w) = f(x channels last, w)."""
        return b.write(target, *(_channels_last(b, x) for x in args[:images]), *args[images:], **kwargs)

    return images_are_channels_last


def _channels_last(b: Builder, x: fx.Node) -> Value:
    val = x.meta["val"]
    if val.dim() != 4 or val.dtype != torch.float32 or val.device.type != "cpu":
        return x
    if val.is_contiguous(memory_format=torch.channels_last):
        return x
    return b.write(aten.clone.default, x, memory_format=torch.channels_last)


@CHANNELS_LAST.law(getitem, signs=())
def derivatives_of_weights_are_contiguous(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """They are channels last where the images are; but gradients are the user's, who may call ``view(-1)``."""
    if not is_call(args[0], aten.convolution_backward.default) or args[1] != 1:
        return None
    part = b.write(getitem, *args)
    if part.meta["val"].is_contiguous():
        return part
    return b.write(aten.clone.default, part, memory_format=torch.contiguous_format)


for _target, _images in ((aten.convolution.default, 1), (aten.convolution_backward.default, 2)):
    CHANNELS_LAST.law(_target)(_convolved(_target, _images))


@IN_PRIMITIVES.law(aten.clone.default)
def clones_in_another_layout_are_their_operand(b: Builder, args: Args, kwargs: Kwargs) -> Value:
    """clone(x) = x in any layout: vmap has no clone as channels last."""
    return args[0] if kwargs.get("memory_format") in (torch.channels_last, torch.channels_last_3d) else None
