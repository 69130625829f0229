"""Elementwise operators, of one operand and of several that broadcast."""

UNARY = r"""
torch.tanh({x})
torch.sin({x})
torch.cos({x})
torch.exp({x})
torch.sigmoid({x})
torch.erf({x})
torch.atan({x})
torch.asinh({x})
torch.sinh({x})
torch.expm1({x})
torch.square({x})
torch.abs({x})
torch.neg({x})
torch.relu({x})
torch.sgn({x})
torch.round({x})
torch.floor({x})
torch.sinc({x})
torch.erfc({x})
torch.exp2({x})
torch.i0({x})
torch.frac({x})
torch.nan_to_num({x})
torch.erfinv({x})
torch.logit({x})
torch.atanh({x})
torch.asin({x})
torch.tan({x})
torch.cosh({x})
torch.special.ndtr({x})
torch.special.log_ndtr({x})
torch.special.erfcx({x})
torch.special.i1({x})
torch.special.i0e({x})
torch.ceil({x})
torch.trunc({x})
torch.positive({x})
torch.deg2rad({x})
torch.log({x})
torch.sqrt({x})
torch.acos({x})
"""

ACTIVATIONS = r"""
F.gelu({x})
F.silu({x})
F.mish({x})
F.softplus({x})
F.elu({x})
F.selu({x})
F.celu({x})
F.hardswish({x})
F.hardsigmoid({x})
F.leaky_relu({x})
F.logsigmoid({x})
F.softsign({x})
F.tanhshrink({x})
F.hardtanh({x})
F.relu6({x})
F.softshrink({x})
F.hardshrink({x})
F.relu({x})
F.gelu({x}, approximate='tanh')
n :: F.glu(torch.cat([{x}, {x}], -1))
n > 1 :: F.prelu({x}, {of(S[1])})
F.softplus({x}, beta=2.)
F.threshold({x}, .1, {c})
F.relu({x}) ** 2
F.dropout({x}, .5, training=False)
F.hardtanh({x}, -.5, .5)
F.leaky_relu({x}, -.3)
F.elu({x}, 1.5)
F.softmax({x}, -1)
{x} * torch.sigmoid({positive} * {x})
"""

OF_POSITIVE_VALUES = r"""
torch.sqrt({x}.square() + {positive})
torch.log({x}.square() + {positive})
torch.rsqrt({x}.square() + {positive})
torch.log1p({x}.square() + {positive})
torch.reciprocal({x}.square() + {positive})
torch.log2({x}.square() + {positive})
torch.log10({x}.square() + {positive})
torch.lgamma({x}.square() + {positive})
torch.digamma({x}.square() + {positive})
torch.special.entr({x}.square() + {positive})
torch.mvlgamma({x}.square() + 2.5, 2)
({x}.square() + {positive}) ** {power}
({x}.square() + {positive}).rsqrt() * {x}
"""

BINARY = r"""
{x} + {y}
{x} - {y}
{x} * {y}
{y} * {x}
{y} - {x}
{x} / {y}
{y} / {x}
{x} / ({y} * {y} + {positive})
torch.add({x}, {y}, alpha={c})
torch.sub({x}, {y}, alpha={c})
torch.rsub({x}, {y}, alpha={c})
torch.hypot({x}, {y})
torch.addcmul({x}, {y}, {z}, value={c})
torch.addcdiv({x}, {y}, {z}, value={c})
torch.lerp({x}, {y}, {c})
torch.lerp({x}, {y}, {z})
torch.maximum({x}, {y})
torch.minimum({x}, {y})
torch.fmax({x}, {y})
torch.atan2({x}, {y})
torch.logaddexp({x}, {y})
torch.pow({x}.abs() + .5, {y})
torch.pow({x}, {y})
torch.xlogy({x}, {y} * {y} + .5)
torch.dist({x}, {y})
torch.where({b}, {x}, {y})
torch.where({x} > {y}, {x}, {z})
torch.copysign({x}, {y})
({x} - {y}) ** 2
{x} * {x}
{x} + {x}
({x} + {y}) * ({x} - {y})
{x} * {c} + {y} * {c}
{x}.detach() * {y}
{x} - {x}.detach() + {y}
{x} + ({x}.round() - {x}).detach()
{x} - {x} * {c}
torch.fmin({x}, {y})
torch.ldexp({x}, {y})
torch.logaddexp2({x}, {y})
torch.special.xlog1py({x}, {y} * {y})
torch.heaviside({x}, torch.tensor(.5, dtype={x}.dtype))
torch.true_divide({x}, {y} * {y} + {positive})
torch.float_power({x}.abs() + .5, {y})
{x}.remainder({y} * {y} + .7)
torch.fmod({x}, {positive})
({x} - {y}).abs().clamp(max={positive})
{x} / ({x}.detach().abs() + {positive})
"""

WITH_NUMBERS = r"""
{x} * {c}
{c} * {x}
{x} + {c}
{c} - {x}
{x} / {c}
{c} / ({x} * {x} + 1)
{x} ** {power}
{x}.abs() ** {power}
{x} * {integer(-2, 3)}
{x} + {integer(-2, 3)}
{integer(0, 2)} - {x}
{x} ** {integer(0, 4)}
{x}.clamp({c}, 2.)
{x}.clamp_min({c})
{x}.clamp(max={c})
-{x}
1 - {x}
torch.where({b}, {x}, {c})
torch.where({b}, {c}, {x})
{x}.masked_fill({b}, {c})
torch.clamp({x}, min={y})
torch.polygamma(1, {x} * {x} + {positive})
{x}.clamp({c}, {c})
torch.where({x} > {c}, {x}, {c} * {x}.exp().clamp(max=9.))
{x}.addcmul({x}, {x}, value={c})
{c} ** {x}
{positive} ** {x}
torch.pow({positive}, {x})
{x}.mul({c}).add({c})
{x} // 1 + {x}
{x} % 1.5
"""
