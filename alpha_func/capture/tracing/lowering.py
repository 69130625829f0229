"""Composite operators in terms of primitive ones.

PyTorch differentiates a composite by a formula written by hand, and some of those formulas are wrong or missing when
they are differentiated again (pytorch#198017). Written in primitives before anything is differentiated, the same
operator has only simple rules to compose. Matrix products, convolutions and normalisations stay whole.
"""

from functools import cache

import torch

from alpha_func.calls import Function
from alpha_func.capture.builder.values import Operator
from alpha_func.capture.tracing import (
    compositions,
    groups,
    lists,
    matrices,
    sampling,
    scattered,
    strided,
    zeros_and_ties,
)
from alpha_func.torch_private import get_decompositions, registered

aten = torch.ops.aten

# Backward operators appear in a loss that itself holds a gradient; in primitives they have every derivative too.
_LOWERED = (
    aten._batch_norm_no_update,
    aten._batch_norm_with_update,
    aten._batch_norm_with_update_functional,
    aten._fused_rms_norm,
    aten._fused_rms_norm_backward,
    aten._log_softmax_backward_data,
    aten._native_batch_norm_legit_functional,
    aten._native_batch_norm_legit_no_training,
    aten._prelu_kernel_backward,
    aten._softmax_backward_data,
    aten._unsafe_index,
    aten._weight_norm_interface,
    aten.addbmm,
    aten.addcdiv,
    aten.addcmul,
    aten.addmv,
    aten.addr,
    aten.affine_grid_generator,
    aten.binary_cross_entropy_with_logits,
    aten.col2im,
    aten.diagonal_backward,
    aten.elu_backward,
    aten.fill,
    aten.gelu_backward,
    aten.glu,
    aten.glu_backward,
    aten.grid_sampler_2d,
    aten.hardsigmoid_backward,
    aten.hardswish_backward,
    aten.huber_loss_backward,
    aten.leaky_relu_backward,
    aten.logit_backward,
    aten.mish_backward,
    aten.mse_loss,
    aten.mse_loss_backward,
    aten.multi_margin_loss,
    aten.nansum,
    aten.native_batch_norm_backward,
    aten.native_dropout,
    aten.native_dropout_backward,
    aten.native_group_norm_backward,
    aten.native_layer_norm_backward,
    aten.nll_loss2d_backward,
    aten.nll_loss2d_forward,
    aten.nll_loss_forward,
    aten.reflection_pad1d_backward,
    aten.reflection_pad2d_backward,
    aten.reflection_pad3d,
    aten.reflection_pad3d_backward,
    aten.replication_pad3d,
    aten.select_backward,
    aten.sigmoid_backward,
    aten.silu_backward,
    aten.smooth_l1_loss_backward,
    aten.soft_margin_loss,
    aten.softplus_backward,
    aten.tanh_backward,
    aten.threshold_backward,
    aten.unfold_backward,
    aten.zero,
)


def decompositions() -> dict[Operator, Function]:
    """The table that ``make_fx`` lowers by: operator overload to its composition."""
    return {**_decompositions(), **registered(groups.OF_OTHERS)}


@cache
def _decompositions() -> dict[Operator, Function]:
    ours = (compositions, groups, lists, matrices, sampling, scattered, strided, zeros_and_ties)
    tables = get_decompositions(_LOWERED), *(each.BY_OPERATOR for each in ours)
    return {operator: way for table in tables for operator, way in table.items()}
