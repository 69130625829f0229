"""Differential equations and mechanics."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, noise_like, of_field
from tests.models.layers import mlp

architecture = of_field("Physics and equations")


def grad(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """∂ Σy / ∂x, itself differentiable."""
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


@architecture("PINN, Burgers' equation", "second derivatives by autograd.grad inside the loss")
def pinn():
    """Raissi et al., 2019: u_t + u·u_x = ν·u_xx, and the initial values."""

    def loss_of(net, x, start, u0):
        x = x.detach().requires_grad_()
        u = net(x)
        du = grad(u, x)
        second = grad(du[:, 1], x)[:, 1]
        return (du[:, 0] + u[:, 0] * du[:, 1] - 0.1 * second).square().mean() + F.mse_loss(net(start), u0)

    return Example(mlp(2, 6, 6, 1, act=nn.Tanh), (torch.randn(5, 2), torch.randn(4, 2), torch.randn(4, 1)), loss_of)


@architecture("PINN, batch that requires a gradient", "autograd.grad with respect to the batch")
def pinn_of_batch():
    """The Poisson equation on points that the loop made with requires_grad=True."""

    def loss_of(net, x, f):
        u = net(x)
        du = grad(u, x)
        return (sum(grad(du[:, i], x)[:, i] for i in range(2)) + f).square().mean() + u.square().mean()

    return Example(mlp(2, 6, 1, act=nn.Tanh), (torch.randn(5, 2).requires_grad_(), torch.randn(5)), loss_of)


@architecture("PINN, functional", "torch.func.vmap of jacfwd of jacrev")
def pinn_functional():
    """The Laplacian of each point as the trace of a Hessian."""

    def loss_of(net, x, f):
        hessians = torch.func.vmap(torch.func.jacfwd(torch.func.jacrev(lambda point: net(point)[0])))(x)
        return (torch.einsum("bii->b", hessians) + f).square().mean()

    return Example(mlp(2, 5, 1, act=nn.Tanh), (torch.randn(4, 2), torch.randn(4)), loss_of)


@architecture("Deep Ritz", "energy of the gradient, by torch.func.grad")
def deep_ritz():
    """E & Yu, 2018."""

    def loss_of(net, x):
        slopes = torch.func.vmap(torch.func.grad(lambda point: net(point)[0]))(x)
        return (slopes.square().sum(1) / 2 - net(x)[:, 0]).mean()

    return Example(mlp(2, 5, 1, act=nn.Softplus), (torch.rand(5, 2),), loss_of)


def trajectory(net: nn.Module, width: int = 2) -> Example:
    """Where a system is after its steps, against where it was seen."""
    return Example(net, (torch.randn(3, width), torch.randn(3, width)), lambda net, x, y: F.mse_loss(net(x), y))


@architecture("Neural ODE", "Runge-Kutta 4, four steps")
def neural_ode():
    """Chen et al., 2018."""

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = mlp(2, 5, 2, act=nn.Tanh)

        def forward(self, x, h=0.25):
            for _ in range(4):
                a = self.f(x)
                b = self.f(x + h / 2 * a)
                c = self.f(x + h / 2 * b)
                x = x + h / 6 * (a + 2 * b + 2 * c + self.f(x + h * c))
            return x

    return trajectory(Flow())


@architecture("Neural SDE", "Euler-Maruyama, noise in the loss")
def neural_sde():
    """Li et al., 2020."""

    class Diffusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.drift, self.spread = mlp(2, 5, 2), nn.Sequential(mlp(2, 5, 2), nn.Sigmoid())

        def forward(self, x):
            for _ in range(4):
                x = x + 0.25 * self.drift(x) + 0.5 * self.spread(x) * noise_like(x)
            return x

    return trajectory(Diffusing())


@architecture("Neural controlled equation", "a path of observations, cross entropy")
def neural_cde():
    """Kidger et al., 2020."""

    class Controlled(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.field, self.head = nn.Linear(2, 3), nn.Sequential(mlp(3, 5, 6), nn.Tanh()), nn.Linear(3, 3)

        def forward(self, path):
            z = self.start(path[:, 0])
            for step in path.diff(dim=1).unbind(1):
                z = z + torch.einsum("bij,bj->bi", self.field(z).unflatten(1, (3, 2)), step)
            return self.head(z)

    return Example(
        Controlled(), (torch.randn(3, 6, 2), torch.randint(3, (3,))), lambda net, x, y: F.cross_entropy(net(x), y)
    )


@architecture("Hamiltonian net", "the symplectic gradient by autograd.grad inside the loss")
def hamiltonian():
    """Greydanus et al., 2019."""

    def loss_of(net, x, speed):
        x = x.detach().requires_grad_()
        q, p = grad(net(x), x).chunk(2, 1)
        return F.mse_loss(torch.cat([p, -q], 1), speed)

    return Example(mlp(4, 6, 1, act=nn.Tanh), (torch.randn(4, 4), torch.randn(4, 4)), loss_of)


@architecture("Lagrangian net", "a Hessian solved for accelerations, torch.func")
def lagrangian():
    """Cranmer et al., 2020."""

    def loss_of(net, q, v, acceleration):
        def energy(q, v):
            return net(torch.cat([q, v]))[0] + v.square().sum()

        def motion(q, v):
            mass = torch.func.hessian(energy, 1)(q, v)
            force = torch.func.grad(energy, 0)(q, v) - torch.func.jacfwd(torch.func.grad(energy, 1), 0)(q, v) @ v
            return torch.linalg.solve(mass, force)

        return F.mse_loss(torch.stack([motion(a, b) for a, b in zip(q, v, strict=True)]), acceleration)

    return Example(mlp(4, 5, 1, act=nn.Softplus), (torch.randn(2, 2), torch.randn(2, 2), torch.randn(2, 2)), loss_of)


@architecture("Symplectic net", "leapfrog steps of two potentials")
def symplectic():
    """Jin et al., 2020: gradient modules in closed form."""

    class Gradient(nn.Module):
        def __init__(self):
            super().__init__()
            self.k, self.a, self.b = (
                nn.Parameter(torch.randn(4, 2)),
                nn.Parameter(torch.randn(4)),
                nn.Parameter(torch.randn(4)),
            )

        def forward(self, x):
            return (torch.sigmoid(x @ self.k.T + self.b) * self.a) @ self.k

    class Leapfrog(nn.Module):
        def __init__(self):
            super().__init__()
            self.kinetic, self.potential = Gradient(), Gradient()

        def forward(self, x):
            q, p = x.chunk(2, 1)
            for _ in range(3):
                p = p - 0.1 * self.potential(q)
                q = q + 0.1 * self.kinetic(p)
            return torch.cat([q, p], 1)

    return trajectory(Leapfrog(), 4)
