"""Kinds of losses that a tracer finds hard, captured and exact against double backward."""

import importlib.util
import threading

import pytest
import torch
from torch import distributions as D
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.errors import CaptureError, StrategyError
from tests.helpers.cases import mlp, squared_error
from tests.helpers.reference import assert_close, double_backward
from tests.helpers.whole import WHOLE, a_few_of


def assert_captured_exactly(loss, params, *args, tolerance=1e-10, truth_of=None, **kwargs):
    """The captured loss, both of whose schemes give the quadratic of double backward."""
    torch.manual_seed(1)
    d = tree.map(torch.randn_like, params)
    truth, norm = double_backward(truth_of or loss, params, d, *args, **kwargs)
    scale = tree.norm(d) * norm
    captured = capture(loss, strict=True)
    by_adjoint = grad_and_quadratic(captured, lambda _: d)(params, *args, **kwargs).quadratic
    for got in (quadratic_along(captured)(params, d, *args, **kwargs), by_adjoint):
        assert_close(got.value, truth.value, tolerance)
        assert_close(got.slope, truth.slope, tolerance, tree.norm(d) * tree.norm(by_gradient(captured, params, args)))
        assert_close(got.curvature, truth.curvature, tolerance, scale)
    return captured


def by_gradient(loss, params, args):
    return torch.func.grad(loss)(params, *args)


def of_outputs(criterion, *args, module=None):
    """The criterion of a small net's outputs, (6, 2), and ``args``."""
    torch.manual_seed(0)
    loss, params = functional_loss((module or mlp([3, 5, 2])).double(), criterion)
    return loss, params, torch.randn(6, 3).double(), *args


X = torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

hugging_face = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs the extra 'transformers'"
)


def surrogate(outputs, args):
    actions, before, advantage = args
    policy = D.Categorical(logits=outputs)
    ratio = (policy.log_prob(actions) - before).exp()
    return -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean() - 0.01 * policy.entropy().mean()


DISTRIBUTIONS = {
    "a normal": lambda out, x: -D.Normal(out, F.softplus(out)).log_prob(x).mean(),
    "a mixture": lambda out, x: (
        -D.MixtureSameFamily(D.Categorical(logits=out), D.Normal(out, F.softplus(out) + 0.1)).log_prob(x[:, 0]).mean()
    ),
    "a Gaussian with a covariance": lambda out, x: (
        -D.MultivariateNormal(out.mean(0), out.T @ out + torch.eye(2).double()).log_prob(x).mean()
    ),
    "a flow": lambda out, x: (
        -D.TransformedDistribution(D.Normal(out, 1.0), [D.TanhTransform(cache_size=1)]).log_prob(x / 2).mean()
    ),
    "a divergence": lambda out, x: D.kl_divergence(D.Normal(out, 1 + out**2), D.Normal(x, 1.0)).mean(),
    "PPO": lambda out, x: surrogate(out, ((x[:, 0] > 0.5).long(), x[:, 1].log(), x[:, 0] - 0.5)),
}


@pytest.mark.parametrize("name", a_few_of(DISTRIBUTIONS, {"a mixture", "a flow", "PPO"}))
def test_distributions_with_their_own_validation(name):
    assert_captured_exactly(*of_outputs(DISTRIBUTIONS[name], X))


STATISTICS = {
    "cov": lambda out, x: torch.cov(out.T).square().sum(),
    "cov with weights": lambda out, x: (
        torch.cov(out.T, correction=1, fweights=torch.arange(1, 7), aweights=x[:, 0]).exp().sum()
    ),
    "corrcoef": lambda out, x: out.T.corrcoef().exp().sum(),
    "tensor_split": lambda out, x: torch.tensor_split(out, torch.tensor([1, 4]))[1].exp().sum(),
    "tensor_split in parts": lambda out, x: out.tensor_split(sections=4)[1].exp().sum(),
    "combinations": lambda out, x: torch.combinations(out[:, 0]).prod(1).square().sum(),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_what_checks_or_counts_values(name):
    assert_captured_exactly(*of_outputs(STATISTICS[name], X))


def resynthesised(n_fft, onesided=None, length=None, **options):
    """A signal's spectra as they are scaled, as a signal again."""

    def loss(p):
        window = torch.hann_window(options.get("win_length", n_fft), dtype=p.dtype)
        spectra = torch.stft(p, n_fft, window=window, onesided=onesided, return_complex=True, **options)
        again = (spectra * spectra.abs()).istft(n_fft, window=window, onesided=onesided, length=length, **options)
        return again.square().sum()

    return loss


@pytest.mark.filterwarnings("ignore:The length of signal is shorter")
@pytest.mark.parametrize(
    "loss",
    [
        resynthesised(8),
        resynthesised(8, hop_length=2, win_length=6, length=20, normalized=True),
        resynthesised(7, onesided=False, length=40),
    ],
)
def test_a_signal_made_of_its_spectra(loss):
    signal = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_captured_exactly(loss, signal)


IN_MEMORY = {
    "a copy of a part": lambda p: p[3:].clone().as_strided((2, 2), (1, 1), 0).square().sum(),
    "a product of a part with 1": lambda p: (p[3:] * 1).as_strided((2, 2), (1, 1), 0).square().sum(),
    "a part": lambda p: p[3:].as_strided((2, 2), (1, 1), 4).square().sum(),
    "a transpose": lambda p: p.reshape(2, 4).t().as_strided((3, 2), (1, 2), 1).square().sum(),
    "every second": lambda p: p[::2].as_strided((2, 2), (2, 4)).square().sum(),
    "expanded": lambda p: p[:2, None].expand(2, 3).as_strided((2, 2), (1, 0)).square().sum(),
}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_as_strided_reads_the_memory_of_its_operand(name):
    assert_captured_exactly(IN_MEMORY[name], torch.arange(1.0, 9.0, dtype=torch.float64))


def test_as_strided_beyond_its_operand_is_refused():
    with pytest.raises(CaptureError, match="memory that is not its operand's"):
        capture(lambda p: p[3:].as_strided((2,), (1,), 0).square().sum())(torch.arange(1.0, 9.0))


SAMPLED = [("bilinear", "zeros", False), ("nearest", "border", True), ("bilinear", "reflection", False)]


@pytest.mark.parametrize(("mode", "padding", "corners"), SAMPLED)
def test_a_volume_at_the_places_of_a_grid(mode, padding, corners):
    volume = torch.randn(1, 2, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(p):
        grid = p[:, :, :, 0, :, None].mul(1.3).tanh().expand(1, 2, 3, 2, 3) * torch.tensor([0.9, 1.2, -0.7])
        return F.grid_sample(p.sin(), grid, mode, padding, corners).square().sum()

    d = torch.ones_like(volume)
    got = quadratic_along(capture(loss, strict=True))(volume, d)
    # PyTorch has one derivative of it: differences of that.
    slopes = [torch.func.grad(loss)(volume + a * d).sum() for a in (1e-5, -1e-5)]
    assert_close(got.curvature, (slopes[0] - slopes[1]) / 2e-5, 1e-6)


COMPOSED = {
    "householder_product": lambda p: torch.linalg.householder_product(p, p[0, :3].cos()).sin().sum(),
    "ormqr": lambda p: torch.ormqr(p, p[0, :3].cos(), p.T, left=False, transpose=True).sin().sum(),
    "max_unpool2d": lambda p: F.max_unpool2d(*F.max_pool2d(p[None, None], 2, return_indices=True), 2).exp().sum(),
    "lstsq": lambda p: torch.linalg.lstsq(p, p[:, 0].exp(), driver="gelsd").solution.sin().sum(),
    "logcumsumexp": lambda p: (30 * p).logcumsumexp(0).sin().sum(),
    "cholesky_inverse": lambda p: torch.cholesky_inverse(p[:3].tril() + 2 * torch.eye(3)).sin().sum(),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_what_is_composed_has_sweeps(name):
    p = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_captured_exactly(COMPOSED[name], p)


def test_spectra_written_place_by_place():
    def loss(p):
        kept = torch.zeros(2, 9, dtype=torch.complex128)
        spectrum = torch.fft.rfft(p)
        kept[:, :3] = spectrum[:, :3] ** 2
        kept[1] = spectrum[0] * spectrum[1]
        return torch.fft.irfft(kept).square().sum()

    assert_captured_exactly(loss, torch.randn(2, 16, dtype=torch.float64))


IN_PLACE = {
    "square_": lambda h: h.square_(),
    "multiply_": lambda h: h.multiply_(X),
    "divide_": lambda h: h.divide_(2),
    "clip_": lambda h: h.clip_(-0.3, 0.3),
    "square_ of a row": lambda h: (h[0].square_(), h)[1],
    "fill_diagonal_": lambda h: h.fill_diagonal_(2.0),
    "fill_diagonal_ of a wide one": lambda h: h.T.contiguous().fill_diagonal_(2.0),
    "fill_diagonal_, wrapped": lambda h: h.fill_diagonal_(2.0, wrap=True),
    "fill_diagonal_ of a cube": lambda h: (h[:2, :2] * h[:2, :1, None]).fill_diagonal_(2.0),
    "selu": lambda h: F.selu(h, inplace=True),
    "rrelu": lambda h: F.rrelu(h, inplace=True),
}


@pytest.mark.filterwarnings("ignore:the second derivative of .* has never been verified")
@pytest.mark.parametrize("name", a_few_of(IN_PLACE, {"square_ of a row", "fill_diagonal_, wrapped", "selu", "rrelu"}))
def test_composed_writes_in_place(name):
    assert_captured_exactly(*of_outputs(lambda out, _: IN_PLACE[name](out * 1).sin().square().sum(), X))


def test_the_slopes_that_are_drawn_are_those_of_the_loss():
    x, net = torch.randn(6, 3).double(), nn.Sequential(mlp([3, 5]), nn.RReLU(), mlp([5, 2]), nn.RReLU(), nn.Dropout())
    loss, params = functional_loss(net.double(), squared_error, seed=3)
    captured = assert_captured_exactly(loss, params, x, X)
    others = tree.map(torch.neg, params)  # of which others are negative: as many slopes are drawn
    assert_close(captured(others, x, X), loss(others, x, X), 1e-12)


def test_ldexp_by_negative_whole_numbers_is_exact():
    places = torch.arange(-3, 3)
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    in_products = lambda p: (p * 2.0**places).square().sum()  # noqa: E731
    assert_captured_exactly(lambda p: torch.ldexp(p, places).square().sum(), x, truth_of=in_products)
    with pytest.raises(StrategyError, match="ldexp"):
        quadratic_along(lambda p: torch.ldexp(p, places).square().sum())(x, x)


class PartlyCompiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.compile(nn.Linear(3, 4), backend="eager"), mlp([4, 2])
        self.b.compile(backend="eager")

    def forward(self, x):
        return self.b(self.a(x).tanh())


@pytest.mark.parametrize("make", [lambda: torch.compile(mlp([3, 5, 2]), backend="eager"), PartlyCompiled])
def test_compiled_modules_are_what_they_were_made_of(make):
    assert_captured_exactly(*of_outputs(squared_error, X, module=make()))


def test_a_composable_checkpoint_is_captured_as_the_module_that_it_wraps():
    composable = pytest.importorskip("torch.distributed._composable")
    wrapped = mlp([3, 5, 2])
    loss, params, *args = of_outputs(squared_error, X, module=wrapped)
    expected = quadratic_along(capture(loss))(params, params, *args)
    composable.checkpoint(wrapped[0])
    got = quadratic_along(capture(functional_loss(wrapped, squared_error)[0]))(params, params, *args)
    assert got == expected


@pytest.mark.filterwarnings("ignore:the second derivative of .* has never been verified")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("layout", ["to_sparse_coo", "to_sparse_csr"])
def test_a_sparse_adjacency_is_refused_and_right_uncaptured(layout):
    dense = torch.rand(6, 6, dtype=torch.float64).round()
    sparse, net = getattr(dense, layout)(), mlp([3, 5, 2]).double()
    x, y = torch.randn(6, 3).double(), X
    of_closure, params = functional_loss(net, lambda out, y: (torch.sparse.mm(sparse, out) - y).square().mean())
    of_dense, _ = functional_loss(net, lambda out, y: (dense @ out - y).square().mean())
    truth, norm = double_backward(of_dense, params, params, x, y)
    of_argument, _ = functional_loss(net, loss_of=lambda net, x, a, y: (torch.sparse.mm(a, net(x)) - y).square().mean())
    for of_sparse, batch in ((of_closure, (x, y)), (of_argument, (x, sparse, y))):
        got = quadratic_along(of_sparse)(params, params, *batch)
        assert_close(got.curvature, truth.curvature, 1e-10, tree.norm(params) * norm)
        with pytest.raises(CaptureError, match=r"sparse.*use the uncaptured loss, which runs"):
            capture(of_sparse)(params, *batch)


MADE_WITHIN = {
    "coo": lambda i, p: torch.sparse_coo_tensor(i, p.new_tensor([0.5, 1, 2]), (3, 3)),
    "csr": lambda i, p: torch.sparse_coo_tensor(i, p.new_tensor([0.5, 1, 2]), (3, 3)).to_sparse_csr(),
    "of parameters": lambda i, p: torch.sparse_coo_tensor(i, p[:, 0].exp(), (3, 3)),
    "of a dense one": lambda i, p: torch.ones(3, 3).to(p).tril().to_sparse(),
}


@pytest.mark.parametrize("name", MADE_WITHIN)
@pytest.mark.filterwarnings("ignore:Sparse", "ignore:the second derivative of sparse_coo_tensor")
def test_a_sparse_tensor_made_within_is_right_and_refused_captured(name):
    def loss(p, i):
        return (MADE_WITHIN[name](i, p) @ p.exp()).square().sum()

    p, places = torch.linspace(-1, 1, 6).double().reshape(3, 2), torch.tensor([[0, 1, 2], [1, 0, 2]])
    truth, hd = double_backward(loss, p, p, places)
    assert_close(quadratic_along(loss)(p, p, places).curvature, truth.curvature, 1e-12, tree.norm(p) * hd)
    with pytest.raises(CaptureError, match=r"sparse tensor at .* use the uncaptured loss, which runs"):
        capture(loss)(p, places)


def test_an_embedding_with_sparse_gradients_is_captured():
    net = nn.Embedding(4, 2, sparse=True).double()
    loss, params = functional_loss(net, squared_error)
    assert_captured_exactly(
        loss, params, torch.tensor([0, 1, 1]), X[:3], truth_of=lambda p, i, y: squared_error(p["weight"][i], y)
    )


def test_a_lock_that_the_loss_enters_is_no_matter():
    lock = threading.RLock()

    def loss(p):
        with lock:
            return p.exp().square().sum()

    assert_captured_exactly(loss, X)


@pytest.mark.parametrize("rows", [(2, 0, 3, 1), (1, 1, 1, 1)])
def test_grouped_products_are_those_of_each_group(rows):
    torch.manual_seed(0)
    x, w = torch.randn(6, 8), torch.randn(4, 8, 4)
    offs = torch.tensor(rows).cumsum(0).int()

    def in_groups(p, x, offs):
        return F.grouped_mm(x, p, offs=offs)[: sum(rows)].square().sum()

    def one_by_one(p, x, offs):
        starts = [0, *offs[:-1].tolist()]
        return sum((x[a:b] @ w).square().sum() for a, b, w in zip(starts, offs.tolist(), p, strict=True))

    assert_captured_exactly(in_groups, w, x, offs, tolerance=1e-5, truth_of=one_by_one)


@WHOLE
@hugging_face
def test_a_model_that_has_never_been_called_is_captured():
    import transformers

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **sizes)
    )
    loss, params = functional_loss(model.double().eval())
    images = torch.randn(2, 1, 8, 8).double()
    assert capture(loss)(params, pixel_values=images, labels=torch.tensor([0, 1])).isfinite()


@WHOLE
@hugging_face
def test_a_mixture_of_experts_is_captured():
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.MixtralConfig(vocab_size=20, num_key_value_heads=1, num_local_experts=3, **sizes)
    model = transformers.MixtralForCausalLM(config).eval()
    ids = torch.randint(2, 20, (2, 6))
    loss, params = functional_loss(model)
    captured = capture(loss, strict=True)
    by_groups = quadratic_along(captured)(params, params, input_ids=ids, labels=ids)
    model.set_experts_implementation("eager")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        truth, norm = double_backward(loss, params, params, input_ids=ids, labels=ids)
    assert_close(by_groups.curvature, truth.curvature, 1e-5, tree.norm(params) * norm)
