"""The operators to verify: PyTorch's own database, and what it lacks, each as a loss of its differentiable inputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, func, nn
from torch.testing import _utils
from torch.testing._internal.common_methods_invocations import gradcheck_wrapper_masked_operation, op_db
from torch.testing._internal.opinfo.core import SampleInput

from alpha_func import functional_loss, tree
from tests.verification.operand_kinds import KINDS, Kind

SAMPLES, LARGEST = 6, 20000  # an operator's samples, and the entries of one
OURS = (
    "_weight_norm",
    "embedding.plain",
    "held_row.",
    "at_zero.",
    "grad_of.",
    "with_numbers.",
    "bias_alone.",
    "strided_weight.",
    "wrong_once.",
    "full.",
    "istft",
    "lstm",
    "gru",
    "rnn_tanh",
)


class _LowPrecision(Exception):  # noqa: N818
    """An output is not in float64: differences say nothing of it."""


class Operator(nn.Module):
    """An operator at a sample, as a module with a scalar output whose parameters are the differentiable inputs."""

    def __init__(self, function: Any, sample: SampleInput, generator: torch.Generator, kind: Kind = KINDS["generic"]):
        super().__init__()
        leaves, self.structure = tree.flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
        movable = [is_movable(leaf) for leaf in leaves]
        moves = iter(kind.moves(sum(movable)) if kind.moves else [True] * sum(movable))
        moved = [m and next(moves) for m in movable]
        self.function, self.moved, self.gauge, self.kind = function, moved, sample.output_process_fn_grad, kind
        values = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.shapes = [v.shape for v, m in zip(values, moved, strict=True) if m]
        starts = [kind.value(v) if kind.value else v for v, m in zip(values, moved, strict=True) if m]
        # An operand that cannot be of this kind stays generic, if another can.
        generic = [v for v, m in zip(values, moved, strict=True) if m]
        self.is_of_kind = any(start is not None for start in starts) and (kind.beside is None or not all(moved))
        starts = [v if start is None else start for v, start in zip(generic, starts, strict=True)]
        self.inputs = nn.ParameterList([nn.Parameter(start.clone()) for start in starts])
        others = zip(values, moved, movable, strict=True)
        self.fixed = [kind.beside(v) if kind.beside and movable else v for v, m, movable in others if not m]
        self.curved = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in self.inputs]
        self.start = [p.detach().clone() for p in self.inputs]
        self.counted: list[bool] = []
        self.seed = int(torch.randint(2**31, (), generator=generator))

    def forward(self, fixed: Any, start: Any, curved: Any) -> Tensor:
        """L(θ)."""
        out = self.output([p + (p - s) ** 2 * c / 2 for p, s, c in zip(self.inputs, start, curved, strict=True)], fixed)
        total = torch.zeros((), dtype=torch.float64)
        for i, leaf in enumerate(counted_leaves(out, self.counted)):
            w = weights(leaf.numel(), i).reshape(leaf.shape)
            total = total + (w * leaf).sum() + (torch.sin(3 * w) * leaf * leaf).sum() / 2
        return total

    def output(self, operands: list[Tensor], fixed: Any) -> Any:
        """What the operator makes of its moved operands and the fixed ones."""
        if self.kind.shown:
            operands = [self.kind.shown(x, shape) for x, shape in zip(operands, self.shapes, strict=True)]
        xs = iter(operands)
        others = iter([leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in fixed])
        first, args, kwargs = tree.unflatten([next(xs) if m else next(others) for m in self.moved], self.structure)
        return self.gauge(self.function(first, *args, **kwargs))


def is_movable(leaf: Any) -> bool:
    """Whether a leaf of a sample is a differentiable input."""
    return isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_floating_point()


def counted_leaves(out: Any, counted: Sequence[bool]) -> list[Tensor]:
    """The real tensors of an output that are differentiated: not statistics for a backward."""
    leaves = [out] if isinstance(out, Tensor) else tree.leaves(out)
    if len(counted) == len(leaves):
        leaves = [leaf for leaf, counts in zip(leaves, counted, strict=True) if counts]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    real = [torch.stack([leaf.real, leaf.imag], -1) if leaf.is_complex() else leaf for leaf in tensors]
    found = [leaf for leaf in real if leaf.is_floating_point() and leaf.numel()]
    if any(leaf.dtype != torch.float64 for leaf in found):
        raise _LowPrecision
    return found


def weights(size: int, output: int) -> Tensor:
    """w of the entries of an output."""
    return torch.cos(torch.arange(size, dtype=torch.float64) + output + 1)


def usable(samples: Iterator[SampleInput]) -> list[SampleInput]:
    """Those with something to move, which is finite and not too large."""
    found = []
    for sample in samples:
        tensors = [leaf for leaf in tree.leaves((sample.input, sample.args, sample.kwargs)) if isinstance(leaf, Tensor)]
        moved = sum(t.numel() for t in tensors if t.requires_grad and t.is_floating_point())
        if any(t.layout != torch.strided for t in tensors):
            continue
        finite = all(bool(t.isfinite().all()) for t in tensors if t.requires_grad)
        if moved and finite and sum(t.numel() for t in tensors) <= LARGEST:
            found.append(sample)
    return found


def at_sample(function: Any, sample: SampleInput, generator: torch.Generator, kind: str = "generic") -> Operator | None:
    """An operator at a sample, with operands of a kind; None where none of its operands can be of it."""
    module = Operator(function, sample, generator, KINDS[kind])
    if not len(module.inputs) or not module.is_of_kind:
        return None
    with torch.enable_grad():
        outputs = tree.leaves(module.output([p * 1 for p in module.inputs], module.fixed))
    module.counted = [isinstance(leaf, Tensor) and leaf.requires_grad for leaf in outputs]
    return module


def samples_of(function: Any, samples: Iterator[SampleInput], seed: int) -> Iterator[tuple[Any, Any, Any, Any]]:
    """(loss, params, direction, args) for a few of an operator's samples."""
    generator = torch.Generator().manual_seed(seed)
    found = usable(samples)
    for sample in found[:: max(1, len(found) // SAMPLES)][:SAMPLES]:
        module = None
        with suppress(RuntimeError):  # it reads memory beyond its operand (as_strided of a part)
            module = at_sample(function, sample, generator)
        if module is None:
            continue
        loss, params = functional_loss(module, seed=module.seed)
        args = (module.fixed, module.start, module.curved)
        yield loss, params, tree.randn_like(params, generator=generator), args


@contextmanager
def without_seeds() -> Iterator[None]:
    """op_db's random operators seed the RNG themselves; ``functional_loss`` does already, and capture refuses it."""
    seed, freeze, state = torch.manual_seed, _utils.freeze_rng_state, torch.get_rng_state()
    torch.manual_seed = lambda seed: torch.default_generator  # type: ignore[assignment,misc]
    _utils.freeze_rng_state = nullcontext
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        torch.manual_seed, _utils.freeze_rng_state = seed, freeze  # type: ignore[misc]
        torch.set_rng_state(state)


def cases() -> dict[str, tuple[Any, Any]]:
    """Operator name to (function, samples); op_db's, and a few that it lacks."""
    listed: dict[str, tuple[Any, Any]] = {}
    for op in op_db:
        if op.supports_autograd and torch.float64 in op.supported_dtypes("cpu"):
            name = op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")
            if op.gradcheck_wrapper is gradcheck_wrapper_masked_operation:
                listed[name] = (op.op, partial(_samples_masked_out_to_zero, op))
            else:
                listed[name] = (partial(op.gradcheck_wrapper, op.op), partial(_samples_of, op))
    # Ours from here on: OURS names them.
    listed["_weight_norm"] = (torch._weight_norm, _weight_norm_samples)
    listed["embedding.plain"] = (lambda w, i: nn.functional.embedding(i, w), _embedding_samples)
    listed["held_row.embedding"] = (_looked_up_beside_a_held_row, _embedding_samples)
    for name, function in AT_ZERO.items():
        listed[f"at_zero.{name}"] = (function, _samples_with_zeros)
    for name, function in GRADIENTS.items():
        listed[f"grad_of.{name}"] = (partial(_gradient, function), _matrix_samples)
    for name, function in WITH_NUMBERS.items():
        listed[f"with_numbers.{name}"] = (function, _matrix_samples)
    # op_db gives it a triangle; what it leaves unread is there in use.
    listed["full.triangular_solve"] = (torch.triangular_solve, _square_samples)
    listed["istft"] = (lambda re, im, *args: torch.istft(torch.complex(re, im), *args), _spectrum_samples)
    for name, function in BIASED.items():
        listed[f"bias_alone.{name}"] = (function, _bias_samples)
    for name, function in STRIDED.items():
        listed[f"strided_weight.{name}"] = (function, _matrix_samples)
    for name, function in WRONG_ONCE.items():
        listed[f"wrong_once.{name}"] = (function, _matrix_samples)
    for name in ("lstm", "gru", "rnn_tanh"):
        listed[name] = (getattr(torch, name), lambda name=name: _recurrent_samples(name))
    return listed


# A loss may hold a gradient of its own (a penalty, a residual of physics); backward formulas then run forward.
GRADIENTS = {
    **{name: getattr(nn.functional, name) for name in ("elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish")},
    **{name: getattr(nn.functional, name) for name in ("logsigmoid", "relu", "selu", "sigmoid", "silu", "softplus")},
    "tanh": torch.tanh,
    "softmax": partial(torch.softmax, dim=-1),
    "log_softmax": partial(torch.log_softmax, dim=-1),
    "layer_norm": lambda x: nn.functional.layer_norm(x, x.shape[-1:]),
    "group_norm": lambda x: nn.functional.group_norm(x, 2),
    "batch_norm": lambda x: nn.functional.batch_norm(x, None, None, training=True),
    "linear": lambda x: nn.functional.linear(x.sin(), x[:2].cos()),
    "conv1d": lambda x: nn.functional.conv1d(x[None].sin(), x[:2, None, :3].expand(2, 4, 3)),
    "avg_pool1d": lambda x: nn.functional.avg_pool1d(x[None].sin(), 2),
    "max_pool1d": lambda x: nn.functional.max_pool1d(x[None].sin(), 2),
    "mse_loss": lambda x: nn.functional.mse_loss(x, torch.ones_like(x)),
    "cross_entropy": lambda x: nn.functional.cross_entropy(x, torch.zeros(len(x), dtype=torch.int64)),
    "embedding": lambda x: nn.functional.embedding(torch.tensor([0, 2, 2]), x),
}


# Overloads that take a number for a tensor: op_db's samples call the others.
WITH_NUMBERS = {
    "pow": lambda x: torch.pow(2.5, x),
    "fmod": lambda x: torch.fmod(x, 0.7),
    "remainder": lambda x: torch.remainder(x, 0.7),
    "floor_divide": lambda x: x + x.sin() // 0.7,
    "heaviside": lambda x: x * torch.heaviside(x, torch.tensor(0.5, dtype=x.dtype)),
    "scatter": lambda x: x.scatter(1, torch.tensor([[0, 2], [1, 1]]), 1.5),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0]), 1.5),
    "masked_fill": lambda x: x.masked_fill(x > 0, 1.5),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "where": lambda x: torch.where(x > 0, x, 0.3),
    "rsub": lambda x: 1 - 2.5 * x,
    "xlogy": lambda x: torch.xlogy(2.5, x * x + 0.1),
    "lerp": lambda x: torch.lerp(x, x.sin(), 0.3),
}

# A normalisation of data, without a weight, of which the bias is trained.
BIASED = {
    "layer_norm": lambda b, x: nn.functional.layer_norm(x, x.shape[1:], None, b),
    "batch_norm": lambda b, x: nn.functional.batch_norm(x, None, None, None, b, training=True),
    "batch_norm_eval": lambda b, x: nn.functional.batch_norm(x, x[0] * 0, x[0] * 0 + 1, None, b),
}

# Every second entry is 0.
AT_ZERO = {
    "sinc": torch.sinc,
    "abs": lambda x: x.abs() ** 2,
    "std": lambda x: 2 * x.unflatten(1, (3, 2)).std(1).square(),
    "pow": lambda x: (3 + x) ** x,
}

# Its kernel on the CPU takes the entries of a weight to lie one behind the other.
STRIDED = {
    "batch_norm": lambda x: nn.functional.batch_norm(x, None, None, _strided(x), training=True),
    "batch_norm_eval": lambda x: nn.functional.batch_norm(x, x.new_zeros(6), x.new_full((6,), 1.5), _strided(x)),
}

# What PyTorch's gradient already is wrong through.
WRONG_ONCE = {
    "ldexp": lambda x: torch.ldexp(x, torch.arange(-3, 3)),
    "polar": lambda x: torch.polar(-x * x - 0.5, x),
}


def _samples_of(op: Any) -> Iterator[SampleInput]:
    yield from op.sample_inputs("cpu", torch.float64, requires_grad=True)


def _samples_masked_out_to_zero(op: Any) -> Iterator[SampleInput]:
    """op_db's wrapper asks for the mask of an output by a function, which no recording holds: here it is known."""
    for sample in _samples_of(op):
        if sample.kwargs.get("mask") is not None:
            kept = torch.masked._output_mask(op.op, sample.input, *sample.args, **sample.kwargs)
            sample.output_process_fn_grad = partial(_zero_where_not, kept)
        yield sample


def _zero_where_not(kept: Tensor, y: Tensor) -> Tensor:
    return torch.where(kept, y, 0)


def _strided(x: Tensor) -> Tensor:
    return x.T.contiguous()[:, 0]


def _gradient(function: Any, x: Tensor) -> Tensor:
    return func.grad(lambda x: (2 * function(x)).sin().sum())(x)


def _matrix_samples() -> Iterator[SampleInput]:
    for i in range(3):
        yield SampleInput(torch.randn(4, 6, generator=torch.Generator().manual_seed(i)).double().requires_grad_())


def _samples_with_zeros() -> Iterator[SampleInput]:
    for sample in _matrix_samples():
        yield SampleInput((sample.input * (torch.arange(6) % 2)).detach().requires_grad_())


def _looked_up_beside_a_held_row(w: Tensor, indices: Tensor) -> Tensor:
    return torch.embedding(torch.cat([torch.ones_like(w[:1]), w]), indices, 0)


def _square_samples() -> Iterator[SampleInput]:
    for n in (2, 3):
        a = _leaf(n, n) + 3 * torch.eye(n, dtype=torch.float64)
        yield SampleInput(_leaf(n, 2).requires_grad_(), args=(a.requires_grad_(),))


def _bias_samples() -> Iterator[SampleInput]:
    for i, sample in enumerate(_matrix_samples()):
        yield SampleInput(_leaf(6).roll(i).requires_grad_(), args=(sample.input.detach(),))


def _leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def _weight_norm_samples() -> Iterator[SampleInput]:
    for shape, dim in (((4, 3), 0), ((4, 3), 1), ((3, 2, 2), 0)):
        kept = [n if i == dim else 1 for i, n in enumerate(shape)]
        g = _leaf(*kept).abs().add(0.5)
        yield SampleInput(_leaf(*shape).requires_grad_(), args=(g.requires_grad_(), dim))


def _spectrum_samples() -> Iterator[SampleInput]:
    window = torch.hann_window(8, dtype=torch.float64)
    for shape, *args in (
        ((5, 4), 8),
        ((2, 5, 6), 8, 2, 8, window),
        ((2, 8, 5), 8, 3, 8, window, True, True, False, 20),
    ):
        yield SampleInput(_leaf(*shape).requires_grad_(), args=(_leaf(*shape).cos().requires_grad_(), *args))


def _embedding_samples() -> Iterator[SampleInput]:
    yield SampleInput(_leaf(5, 3).requires_grad_(), args=(torch.tensor([[0, 2], [2, 4]]),))


def _recurrent_samples(name: str) -> Iterator[SampleInput]:
    gates = {"lstm": 4, "gru": 3, "rnn_tanh": 1}[name] * 3
    weights = [_leaf(gates, 2), _leaf(gates, 3), _leaf(gates), _leaf(gates)]
    state = _leaf(1, 2, 3).requires_grad_()
    hidden = [state, _leaf(1, 2, 3).requires_grad_()] if name == "lstm" else state
    weights = [w.requires_grad_() for w in weights]
    yield SampleInput(_leaf(4, 2, 2).requires_grad_(), args=(hidden, weights, True, 1, 0.0, True, False, False))
