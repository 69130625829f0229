"""Implicit layers, operators between functions, spectra."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.equations import trajectory
from tests.models.layers import mlp

architecture = of_field("Physics and equations")


@architecture("Deep equilibrium, unrolled", "twenty damped steps")
def deq_unrolled():
    """Bai et al., 2019."""

    class Equilibrium(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.u = nn.Linear(4, 4), nn.Linear(2, 4)
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            z, drive = torch.zeros(len(x), 4).to(x), self.u(x)
            for _ in range(20):
                z = 0.5 * z + 0.5 * torch.tanh(0.5 * self.w(z) + drive)
            return self.out(z)

    return trajectory(Equilibrium())


@architecture("Deep equilibrium, implicit", "Newton's step at the fixed point")
def deq_implicit():
    """The fixed point is found without a graph; two Newton steps in the graph have its two derivatives."""

    class Equilibrium(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.u, self.out = nn.Parameter(0.3 * torch.randn(4, 4)), nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, x):
            drive = self.u(x)
            with torch.no_grad():
                z = torch.zeros_like(drive)
                for _ in range(60):
                    z = torch.tanh(z @ self.w.T + drive)
            for _ in range(2):
                f = torch.tanh(z @ self.w.T + drive)
                jacobian = torch.eye(4).to(x) - (1 - f**2)[..., None] * self.w
                z = z - torch.linalg.solve(jacobian, (z - f)[..., None])[..., 0]
            return self.out(z)

    return trajectory(Equilibrium())


class FourierLayer(nn.Module):
    """Complex weights on the lowest frequencies, kept as pairs of real numbers."""

    def __init__(self, width=3, modes=3):
        super().__init__()
        self.modes, self.weight, self.local = (
            modes,
            nn.Parameter(0.3 * torch.randn(width, width, modes, 2)),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x):
        spectrum = torch.fft.rfft(x)
        kept = torch.einsum("bim,iom->bom", spectrum[..., : self.modes], torch.view_as_complex(self.weight))
        return self.local(x) + torch.fft.irfft(F.pad(kept, (0, spectrum.shape[-1] - self.modes)), n=x.shape[-1])


@architecture("Fourier neural operator", "relative L2, complex spectra")
def fno():
    """Li et al., 2021."""

    def loss_of(net, x, y):
        return ((net(x) - y).norm(dim=2) / y.norm(dim=2)).mean()

    net = nn.Sequential(nn.Conv1d(1, 3, 1), FourierLayer(), nn.GELU(), FourierLayer(), nn.Conv1d(3, 1, 1))
    return Example(net, (torch.randn(2, 1, 8), torch.randn(2, 1, 8)), loss_of)


@architecture("FNet", "masked classifier, complex Fourier mixing")
def fnet():
    """Lee-Thorp et al., 2022: tokens mixed by the real part of a Fourier transform."""

    class FNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.norm, self.net, self.head = (
                nn.Embedding(7, 6),
                nn.LayerNorm(6),
                mlp(6, 8, 6, act=nn.GELU),
                nn.Linear(6, 3),
            )

        def forward(self, tokens):
            x = self.words(tokens)
            x = self.norm(
                x + torch.fft.fft2(x.to(torch.complex128 if x.dtype is torch.float64 else torch.complex64)).real
            )
            return self.head((x + self.net(x)).mean(1))

    return Example(
        FNet(), (torch.randint(7, (3, 5)), torch.randint(3, (3,))), lambda net, x, y: F.cross_entropy(net(x), y)
    )


@architecture("DeepONet", "branch and trunk")
def deeponet():
    """Lu et al., 2021."""

    class Operator(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.trunk = mlp(5, 6, 4, act=nn.Tanh), mlp(1, 6, 4, act=nn.Tanh)

        def forward(self, u, y):
            return self.branch(u) @ self.trunk(y).T

    return Example(
        Operator(),
        (torch.randn(3, 5), torch.rand(4, 1), torch.randn(3, 4)),
        lambda net, u, y, s: F.mse_loss(net(u, y), s),
    )


@architecture("SIREN", "a signal and its gradient")
def siren():
    """Sitzmann et al., 2020."""

    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(3 * x)

    def loss_of(net, x, y, slope):
        got, pull = torch.func.vjp(net, x)
        return F.mse_loss(got, y) + 0.1 * F.mse_loss(pull(torch.ones_like(got))[0], slope)

    return Example(mlp(2, 6, 6, 1, act=Sine), (torch.rand(4, 2), torch.randn(4, 1), torch.randn(4, 2)), loss_of)


@architecture("Kolmogorov-Arnold net", "B-splines on edges")
def kan():
    """Liu et al., 2024."""

    class Splines(nn.Module):
        def __init__(self, i, o, order=3, pieces=4):
            super().__init__()
            self.base, self.weight = nn.Linear(i, o, bias=False), nn.Parameter(0.3 * torch.randn(o, i, pieces + order))
            self.order = order
            self.register_buffer("knots", torch.linspace(-4, 4, pieces + 2 * order + 1))

        def forward(self, x):
            x = x[..., None]
            t = self.knots
            b = ((x >= t[:-1]) & (x < t[1:])).to(x)
            for k in range(1, self.order + 1):
                left = (x - t[: -k - 1]) / (t[k:-1] - t[: -k - 1])
                right = (t[k + 1 :] - x) / (t[k + 1 :] - t[1:-k])
                b = left * b[..., :-1] + right * b[..., 1:]
            return self.base(F.silu(x[..., 0])) + torch.einsum("bik,oik->bo", b, self.weight)

    return trajectory(nn.Sequential(Splines(2, 4), Splines(4, 2)))


@architecture("Koopman autoencoder", "linear dynamics by matrix_exp")
def koopman():
    """Lusch et al., 2018."""

    class Koopman(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode, self.generator = mlp(2, 5, 3), mlp(3, 5, 2), nn.Parameter(0.3 * torch.randn(3, 3))

        def forward(self, x):
            return self.decode(self.encode(x) @ torch.linalg.matrix_exp(0.5 * self.generator).T)

    return trajectory(Koopman())


@architecture("Hopfield net, modern", "retrieval to a fixed depth")
def hopfield():
    """Ramsauer et al., 2021."""

    class Hopfield(nn.Module):
        def __init__(self):
            super().__init__()
            self.patterns, self.beta = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            for _ in range(4):
                x = (self.beta.exp() * x @ self.patterns.T).softmax(-1) @ self.patterns
            return x

    return trajectory(Hopfield())
