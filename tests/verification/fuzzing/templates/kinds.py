"""What is not a fresh real tensor: integers and booleans, complex values, writes in place, casts."""

INTEGERS = r"""
{x} * {b}
{x} * {i}
{x} + {i}
{x} - {i}
{i} - {x}
{x} / ({i} + 1)
{x} * ({b} * .5)
{x} ** {i}
{x} + {b}
{i} * .5
({x} > {c}).sum({dim})
({x} > {c}).long()
({x} > {y})
({x} > {c}).any({dim})
{x}.argmax({dim})
{x}.argsort({dim})
torch.arange({integer(1, 4)})
{i} + {i}
{i} * {integer(-2, 3)}
{i} // 2
{i} % 3
-{i}
{i} - {i}
{i} * {i}
{i} ** 2
~{b}
{b} & {b}
{b} + {b}
{i} > {integer(0, 2)}
{i}.to(torch.int32)
{i} / 2
({i} * .5).mean()
({b} * .5).mean()
{i} ** 2.
{b}.to(torch.uint8)
{i} + .5 * {i}
{b} * -1.
{b}.sum()
{x} * {b}.sum({dim}, keepdim=True)
{x} / {b}.sum({dim}, keepdim=True).clamp(min=1)
{i}.to({x}.dtype)
1 - {i}
{i} * -1.
{x} * (1 - {i})
{x}.sum({dim}) / {b}.sum()
{i}.sum({dim}, keepdim=True) * {x}
{x} * {b}.to({x}.dtype)
{i}.float()
({x} * {b}).sum({dim}) / {b}.sum({dim}).clamp(min=1)
F.one_hot({x}.argmax(-1), 5) * {c}
torch.full({S}, {integer(0, 3)})
{i}.prod({dim})
torch.bitwise_and({i}, 3)
torch.logical_and({b}, {b})
torch.logical_not({b}) * {x}
{i}.float() * {x}
torch.where({b}, {i}, 0) * {x}
torch.where({b}, 1., 0.)
{i}.to(torch.uint8) + {i}.to(torch.uint8)
{x} - {b}.to(torch.uint8)
{i}.cumsum({dim})
torch.searchsorted(torch.tensor([-1., 0., 1.], dtype={x}.dtype), {x}.contiguous())
torch.ones_like({i}) * {x}
torch.zeros_like({x}) + 1e-3
2 * torch.zeros_like({x}) - 1
({i} > 0) * {x}
{b}.float().mean() * {x}
{b}.any() * {x}
{i}.max() * {x}
torch.triu(torch.ones(2, 2, dtype=torch.bool)).sum() * {x}
"""

IN_PLACE = r"""
{out} = {x}.clone(); {out}.mul_({y})
{out} = {x}.clone(); {out}.add_({y}, alpha={c})
{out} = {x}.clone(); {out}[..., 0] = {y}
n :: {out} = {x} * 1; {out}[0] += {of(*S[1:])}
{out} = torch.zeros({S}); {out}[:] = {x}
{out} = {x} + 0; {out}.tanh_()
{out} = {x} + 1; {out}.relu_()
{out} = {x}.clone(); {out}.clamp_(min={c})
{out} = {x}.clone(); {out}.masked_fill_({b}, {c})
{out} = {x}.clone(); {out}.copy_({y})
{out} = {x}.clone(); {out}.zero_()
{out} = {x} * 2; {out}.div_({positive}); {out}.sub_({y})
{out} = torch.empty({S}); {out}.fill_({c}); {out} += {x}
{out} = {x}.clone(); {out}.mT.mul_({c})
{out} = {x}.clone(); {out}.view(-1)[:1] *= 2
{out} = {x}.clone(); {out}.index_fill_(0, torch.tensor([0]), {c})
{out} = {x}.to(f32)
{out} = {x}.to(f32).to(torch.float64)
{out} = ({x} * {c}).to(f32)
{out} = {x}.type_as({y})
{out} = {x}.clone(); {out}[{b}.expand({S})] = {c}
{out} = {x} * 1; {out} *= {out}
{out} = {x}.exp(); {out} += {x}; {out} /= 2
{out} = {x} + 1; {out}.sigmoid_(); {out}.mul_({x})
{out} = {x}.clone(); {out}.addcmul_({x}, {x}, value={c})
{out} = torch.zeros_like({x}); {out} += {x} * {c}
{out} = {x} * 1; t = {x} * 2; t.zero_(); {out} = {out} + t
{out} = {x}.double()
"""

COMPLEX = r"""
torch.complex({x}, {of(*S)})
n :: torch.fft.fft({x})
n :: torch.fft.rfft({x}, dim={dim})
{j} * {j}.conj()
{j}.abs()
{j}.real
{j}.imag
n :: torch.fft.irfft({j}, n=3)
{j} * {c}
{j}.abs().square()
torch.view_as_real({j})
{j} * {x}
{j}.exp()
torch.polar({x}, {of(*S)})
{x} + 0j
({x} * 1j).exp()
torch.fft.ifft({j}).real
{j}.angle()
n :: torch.fft.fft2({x})
{j} + {j}
n and S[-1] == 2 :: torch.view_as_complex({x}.contiguous())
{j}.sum()
{j}.conj()
({j} * {j}).real
{j} - {c}
{j} / ({j}.abs() + {positive})
n :: torch.fft.rfft({x}).abs().square().sum()
n :: torch.fft.irfft(torch.fft.rfft({x}) * {c}, n={S[-1]})
n :: torch.fft.ifft(torch.fft.fft({x}) * torch.fft.fft({of(*S)})).real
n :: torch.fft.fftshift({x})
torch.view_as_real({j} * 1j)
({x} * {c}j).cos().real
{j}.square().sum().abs()
torch.stack([{j}, {j}.conj()])
{j}.tanh().imag
n > 1 :: {j} @ {j}.mH if {j}.ndim > 1 else {j}
n :: torch.fft.hfft({x} + 0j).sum()
n == 2 and S[-1] == 2 :: torch.view_as_complex({x} * 1).abs()
{j}.resolve_conj().resolve_neg()
torch.complex({x}, torch.zeros_like({x}))
torch.real({j}) * {x}
n and S[-1] > 3 :: torch.stft({x}.flatten(), 4, window=torch.ones(4), return_complex=True).abs()
"""
