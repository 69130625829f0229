"""Complex values and parameters, against double backward in a plain loop."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, check_quadratic, functional_loss, grad_and_quadratic, hvp, quadratic_along, tree
from alpha_func.transforms import STRATEGIES
from tests.helpers.sweeps import assert_exact, double_backward

LOOSE = 1e-10


def size(z):
    """A real number of a tensor that is not linear in its parts, nor symmetric in them."""
    z = z + 0j
    return (z.real.sin() + z.imag.square() * z.real).sum()


z = torch.view_as_complex
FUNCTIONS = {
    **{
        name: partial(lambda f, p: f(z(p["w"])), getattr(torch, name))
        for name in (
            *(
                "abs",
                "angle",
                "atan",
                "conj_physical",
                "cos",
                "exp",
                "imag",
                "log",
                "neg",
                "prod",
                "real",
                "reciprocal",
            ),
            *("rsqrt", "sgn", "sigmoid", "sin", "sqrt", "std", "sum", "tanh", "var"),
        )
    },
    "conj": lambda p: z(p["w"]).conj() * z(p["w"]) ** 2,
    "cube": lambda p: z(p["w"]) ** 3,
    "root": lambda p: z(p["w"]) ** 0.5,
    "power": lambda p: z(p["w"]) ** (1 + 2j),
    "size of a square": lambda p: (z(p["w"]) * z(p["w"])).abs() + (z(p["w"]) ** 2).abs(),
    "power of itself": lambda p: z(p["w"]) ** z(p["w"]),
    "quotient": lambda p: z(p["w"]) / (z(p["w"]) ** 2 + 3),
    "beside a real": lambda p: (z(p["w"]) + p["w"][:, 0]) * p["w"][:, 1] / (p["w"][:, 0] + 2j),
    "times i": lambda p: (p["w"] * 1j).exp() * p["w"],
    "to real": lambda p: z(p["w"]).real.to(torch.complex128).square(),
    "complex": lambda p: torch.complex(p["w"], p["w"] ** 2) ** 2,
    "complex of a constant": lambda p: torch.complex(torch.ones_like(p["w"]), p["w"]) ** 3,
    "polar": lambda p: torch.polar(p["w"].exp(), p["w"] ** 2),
    "where": lambda p: torch.where(p["w"][:, 0] > 0, z(p["w"]), z(p["w"]) ** 2),
    "masked_fill": lambda p: z(p["w"]).masked_fill(p["w"][:, 0] > 0.7, 1j) * z(p["w"]),
    "cat": lambda p: torch.cat([z(p["w"]), p["w"][:, 0] + 0j]) ** 2,
    "product of matrices": lambda p: z(p["w"])[None] @ z(p["w"])[:, None] @ z(p["w"])[None],
    "einsum": lambda p: torch.einsum("i,j->ij", z(p["w"]), z(p["w"]).conj()) ** 2,
    "norm": lambda p: z(p["w"]).norm() + torch.linalg.vector_norm(z(p["w"]), 3),
    "cumsum": lambda p: z(p["w"]).cumsum(0) ** 2,
    "convolution": lambda p: F.conv1d(z(p["w"])[None, None], z(p["w"])[None, None, :2]),
    "inverse": lambda p: torch.linalg.inv(z(p["w"])[:, None] * z(p["w"]) + torch.eye(3)),
    "fft": lambda p: torch.fft.fft(p["w"]) ** 2,
    "rfft": lambda p: torch.fft.rfft(p["w"], dim=0) ** 2,
    "irfft": lambda p: torch.fft.irfft(z(p["w"]), n=4) ** 3,
    "hfft": lambda p: torch.fft.hfft(z(p["w"]), n=4) ** 3,
    "fft2": lambda p: torch.fft.ifft2(torch.fft.fft2(p["w"]) ** 2),
    "stft": lambda p: (
        torch.stft(
            p["w"].reshape(-1).repeat(4), 8, window=torch.hann_window(8, dtype=torch.float64), return_complex=True
        )
        ** 2
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sweeps_are_exact_through_complex(name):
    torch.manual_seed(0)
    params = {"w": torch.rand(3, 2, dtype=torch.float64) + 0.2}
    assert_exact(lambda p: size(FUNCTIONS[name](p)), params)


class FourierBlock(nn.Module):
    """Li et al. (2021), "Fourier neural operator": a product of spectra beside a pointwise layer."""

    def __init__(self, kernel):
        super().__init__()
        self.lift, self.local, self.head = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.kernel = nn.Parameter(kernel)

    def forward(self, u):
        h = self.lift(u[..., None])
        kernel = self.kernel if self.kernel.is_complex() else torch.view_as_complex(self.kernel)
        spectrum = torch.fft.rfft(h, dim=1)[:, :3] * kernel
        return self.head(F.gelu(torch.fft.irfft(spectrum, n=u.shape[1], dim=1) + self.local(h)))[..., 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_fourier_neural_operator_is_exact_with_a_real_or_complex_kernel(dtype):
    torch.manual_seed(0)
    kernel = torch.randn(3, 4, dtype=dtype) if dtype.is_complex else torch.randn(3, 4, 2, dtype=dtype)
    loss, params = functional_loss(FourierBlock(kernel).double(), nn.MSELoss())
    assert params["kernel"].dtype == dtype
    assert_exact(loss, params, torch.randn(6, 8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64))


def test_rotary_embeddings_are_exact():
    torch.manual_seed(0)
    turns = torch.polar(torch.ones(5, 2, dtype=torch.float64), torch.arange(10.0, dtype=torch.float64).reshape(5, 2))

    def loss(p, x, turns):
        q, k = (x @ p[name] for name in ("q", "k"))
        q, k = (torch.view_as_real(z(t.reshape(*t.shape[:-1], 2, 2)) * turns).flatten(-2) for t in (q, k))
        return (torch.softmax(q @ k.mT, -1) @ x).square().sum()

    params = {name: torch.randn(4, 4, dtype=torch.float64) for name in ("q", "k")}
    assert_exact(loss, params, torch.randn(3, 5, 4, dtype=torch.float64), turns)


def polynomial(p, x):
    return (x @ p["z"]).abs().sum() + (p["z"] ** 3).real.square().sum() + (p["r"] * p["z"]).imag.sin().sum()


def complex_case():
    torch.manual_seed(0)
    params = {"z": torch.randn(3, dtype=torch.complex128), "r": torch.randn(3, dtype=torch.float64)}
    return params, tree.randn_like(params), torch.randn(2, 3, dtype=torch.complex128)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", [lambda f: f, capture], ids=["plain", "captured"])
def test_a_complex_parameter_is_its_real_and_imaginary_part_under(strategy, make):
    params, direction, x = complex_case()

    def of_parts(parts, x):
        return polynomial({"z": z(parts["z"]), "r": parts["r"]}, x)

    parts, line = ({"z": torch.view_as_real(t["z"]), "r": t["r"]} for t in (params, direction))
    expected, grads = double_backward(of_parts, parts, line, x)
    loss = make(polynomial)
    step = grad_and_quadratic(loss, lambda g: direction, strategy=strategy)(params, x)
    for got in (quadratic_along(loss, strategy=strategy)(params, direction, x), step.quadratic):
        assert [float(number) for number in got] == pytest.approx(expected, rel=LOOSE)
        assert not any(number.is_complex() for number in got)
    torch.testing.assert_close(torch.view_as_real(step.grads["z"]), grads[0].detach(), rtol=LOOSE, atol=LOOSE)
    hd = hvp(loss, strategy=strategy)(params, direction, x)
    assert float(tree.vdot(direction, hd)) == pytest.approx(expected[2], rel=LOOSE)


def test_descent_along_a_complex_gradient_has_minus_its_square_as_slope():
    params, _, x = complex_case()
    grads, _, quadratic = grad_and_quadratic(capture(polynomial))(params, x)
    assert float(quadratic.slope) == pytest.approx(-float(tree.vdot(grads, grads)), rel=LOOSE)


def test_check_quadratic_agrees_on_complex_parameters():
    params, direction, x = complex_case()
    assert "they agree" in str(check_quadratic(capture(polynomial), params, direction, x))


def test_a_program_of_complex_views_takes_other_strides():
    captured = capture(lambda p: z(p["w"].contiguous()).abs().sum())
    w = torch.arange(4.0).reshape(2, 2) + 1
    for given in (w, w.T.contiguous().T):
        assert float(captured({"w": given})) == pytest.approx(float(z(w).abs().sum()))
