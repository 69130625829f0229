"""Reductions, scans, and what only moves, copies or chooses entries."""

REDUCTIONS = r"""
{x}.sum({dim}, keepdim={keep})
{x}.mean({dim}, keepdim={keep})
n :: {x}.sum({dims})
n :: {x}.mean({dims}, keepdim={keep})
{x}.sum()
{x}.mean()
{x}.prod()
{x}.prod({dim}, keepdim={keep})
{x}.std({dim})
n :: {x}.var({dims}, correction={integer(0, 1)}, keepdim={keep})
{x}.var()
{x}.median()
{x}.nansum()
sum(torch.var_mean({x}, {dim}))
sum(torch.std_mean({x}, {dim}, keepdim={keep}))
{x}.amax({dim}, keepdim={keep})
{x}.max({dim})[0]
{x}.min()
n :: torch.logsumexp({x}, {dims}, keepdim={keep})
{x}.norm()
{x}.norm(dim={dim}, keepdim={keep})
torch.linalg.vector_norm({x}, {choice([1, 2, 3, 4, .5])}, {dim})
{x}.cumsum({dim})
{x}.cumprod({dim})
{x}.logcumsumexp({dim})
{x}.cummax({dim})[0]
torch.softmax({x}, {dim})
torch.log_softmax({x}, {dim})
F.softmin({x}, {dim})
n :: {x}.topk(1, {dim})[0]
{x}.sort({dim}, descending={keep})[0]
n :: F.normalize({x}, dim={dim})
{x}.square().sum({dim})
{x}.quantile(.3)
{x}.kthvalue(1, {dim})[0]
{x} - {x}.mean({dim}, keepdim=True)
{x} / {x}.norm(dim={dim}, keepdim=True)
torch.renorm({x}, 2, 0, 1.)
{x}.diff(dim={dim})
torch.trapezoid({x})
torch.cov({x})
{x}.nanmean()
n :: torch.aminmax({x}, dim={dim})[1]
{x}.norm(1)
{x}.norm(float('inf'))
n :: {x}.norm(p=3, dim={dim})
{x}.norm() ** 2
n > 1 :: torch.linalg.matrix_norm({x})
torch.cumulative_trapezoid({x})
n :: {x}.sum({dim}).square()
{x} - {x}.amax({dim}, keepdim=True)
{x} - {x}.max()
n :: ({x} - {x}.mean({dims}, keepdim=True)) / ({x}.var({dims}, keepdim=True, correction=0) + {positive}).sqrt()
{x} * torch.rsqrt({x}.square().mean(-1, keepdim=True) + {positive})
n :: {x}.sum({dims}, keepdim=True) * {x}
n == 2 :: torch.corrcoef({x})
{x}.sum({dim}, dtype=torch.float64)
{x}.softmax({dim}).log()
"""

SHAPES = r"""
{x}.reshape({view})
{x}.permute({order})
{x}.expand({wider})
{x}.unsqueeze({integer(0, n)})
{x}.squeeze()
{x}.flatten()
n > 1 :: {x}.transpose(0, {dim})
n :: torch.cat([{x}, {of(*S)}], {dim})
torch.stack([{x}, {of(*S)}], {integer(0, n)})
n :: torch.split({x}, 1, {dim})[-1]
n :: {x}.chunk(2, {dim})[0]
n :: {x}.unbind({dim})[0]
n :: {x}[{labels([3], S[0])}]
n :: {x}[..., {labels([2], S[-1])}]
n :: torch.gather({x}, -1, {labels((*S[:-1], 2), S[-1])})
{x}.tril({integer(-1, 1)})
{x}.triu()
n > 1 :: {x}.diagonal()
{x}.mT
n :: torch.zeros({S}).scatter_add(-1, {labels(S, S[-1])}, {x})
n :: {x}.index_add(0, {labels([3], S[0])}, {of(3, *S[1:])}, alpha={c})
n :: {x}.index_select({dim}, torch.tensor([0, 0]))
n :: {x}.roll(1, {dim})
n :: {x}.flip({dims})
n :: F.pad({x}, (1, {integer(-1, 2)}), value={c})
n > 1 :: F.pad({x}, (1, 0), mode='replicate')
n > 1 :: F.pad({x}, (1, 1), mode='circular')
n :: {x}.unfold({dim}, 2, 1)
{x}.repeat({(2,) * n})
n :: {x}.repeat_interleave(2, {dim})
n :: {x}[..., ::2]
n :: {x}[:, None]
{x}[None]
n :: {x}[0]
n :: {x}[-1:]
{x}.diag_embed()
n :: torch.index_put({x}, (torch.tensor([0, 0]),), {of(*S[1:])}, accumulate=True)
n :: torch.index_put({x}, (torch.tensor([0]),), {of(*S[1:])})
n :: torch.take_along_dim({x}, {x}.argsort(-1), -1)
n :: torch.select_scatter({x}, {of(*S[1:])}, 0, 0)
n :: torch.slice_scatter({x}, {of(1, *S[1:])}, 0, 0, 1)
torch.broadcast_to({x}, {wider})
n == 1 :: torch.outer({x}, {of(integer(1, 3))})
{x}.contiguous()
torch.kron({x}, {of(2)})
n > 1 :: torch.rot90({x})
n > 2 :: F.interpolate({x}, scale_factor=2)
n == 4 :: F.interpolate({x}, size=(3, 2), mode='bilinear')
torch.block_diag({x}, {x})
{x}.movedim(0, -1)
n :: torch.hstack([{x}, {x}])
n :: torch.vstack([{x}, {x}])
n :: {x}.tile(2)
n :: {x}.narrow({dim}, 0, 1)
n :: {x}.unflatten({dim}, (1, -1))
n :: torch.cat([{x}, {x} * {c}, {x}], {dim})
n :: torch.stack([{x}, torch.zeros_like({x})])
n :: {x}.scatter(-1, {labels(S, S[-1])}, {c})
n == 1 :: {x}.scatter_reduce(0, {labels(S, S[0])}, {of(*S)}, 'sum')
n :: {x}.index_copy(0, torch.tensor([0]), {of(1, *S[1:])})
n :: {x}.index_fill({dim}, torch.tensor([0]), {c})
n :: {x}.masked_scatter({b}.expand({S}), {of(*S)})
n > 1 :: F.pad({x}, (1, 0), mode='reflect') if {S[-1]} > 1 else {x}
n :: F.pad({x}, (0, 1))
{x}.expand(2, *{S}).sum(0)
n > 1 :: {x}.flatten(0, 1)
n > 1 :: {x}.mT.contiguous()
n > 1 :: {x}.swapaxes(0, -1).reshape(-1)
n > 1 :: {x}.mT.reshape(-1)
n :: torch.as_strided({x}.contiguous(), (2,), (0,))
{x}.view_as({x})
n == 4 :: F.pixel_shuffle(torch.cat([{x}] * 4, 1), 2)
n == 4 :: F.unfold({x}, (2, 1), padding=1)
n :: torch.cartesian_prod({x}.flatten(), {x}.flatten()).sum(1)
n :: {x}.take({labels([3], max(1, numel))})
n :: torch.where({x}.argsort(-1) == 0, {x}, {of(*S)})
n == 2 :: torch.zeros(5, {S[1]}).index_add(0, {labels(S[:1], 5)}, {x})
n :: torch.zeros(5)[{labels([2], 5)}].sum() + {x}
"""
